"""A teacher that calls an embeddings API over HTTP.

    export EMBEDDINGS_URL=https://…/v1 EMBEDDINGS_API_KEY=…
    aft extract --data reviews.csv --extract-batch-size 256 \
        --teachers "python:examples/embeddings_api.py:teacher?model=NAME&dim=1536"

The API is that of most providers and local servers: `POST $EMBEDDINGS_URL/embeddings` with a model
and a list of texts. Every text is sent once, one batch per call; its features are stored, so later
runs need neither the API nor the key. An interrupted extraction goes on where it stopped.

The stored features are those of this file and its options. If the provider changes a model without
changing its name, add an option, such as `?version=2`.
"""

import os

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

SECONDS = (10, 120)  # to connect, and to wait for an answer


def teacher(model, dim, version=""):
    """Return a function from a list of texts to their features, and the features' dimension."""
    return Embeddings(model), int(dim)


class Embeddings:
    """Calls the API; a call that is refused because of its rate, or fails, is repeated."""

    def __init__(self, model):
        self.model = model
        self.session = None

    def connect(self):
        """Read the settings when the first text is computed: stored features do not need them."""
        self.url = os.environ["EMBEDDINGS_URL"].rstrip("/") + "/embeddings"
        retry = Retry(
            total=8,
            backoff_factor=float(os.environ.get("EMBEDDINGS_BACKOFF", "1")),  # 0, 2, 4, … seconds
            status_forcelist=(429, 500, 502, 503, 504),
            allowed_methods=("POST",),
            respect_retry_after_header=True,  # waits as long as the server asks for
        )
        self.session = requests.Session()
        self.session.headers["Authorization"] = f"Bearer {os.environ['EMBEDDINGS_API_KEY']}"
        for scheme in ("https://", "http://"):
            self.session.mount(scheme, HTTPAdapter(max_retries=retry))

    def __call__(self, texts):
        """Features of the texts, one list of numbers each."""
        if self.session is None:
            self.connect()
        body = {"model": self.model, "input": texts}
        answer = self.session.post(self.url, json=body, timeout=SECONDS)
        if not answer.ok:
            raise RuntimeError(f"{self.url} answered {answer.status_code}: {answer.text[:500]}")
        rows = {one["index"]: one["embedding"] for one in answer.json()["data"]}
        return [rows[i] for i in range(len(texts))]
