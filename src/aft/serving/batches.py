"""Join the questions of concurrent requests into batches, which one thread answers in turn."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from aft.serving.questions import Question, Refused

WAIT = 0.003
"""Seconds that the first question after a pause waits for others. Later ones wait no longer than
the batch before them takes."""

_Waiting = tuple[Question, asyncio.Future[Any]]


class Batches:
    """Questions that wait, and those that are being answered; used from one event loop.

    Args:
        answer: Answers several questions, in order; called in a thread of its own.
        batch_size: Most inputs per batch, unless a single question has more.
        most_waiting: Most inputs that wait or are being answered.

    Attributes:
        inputs: Number of inputs that wait or are being answered.
    """

    def __init__(
        self, answer: Callable[[Sequence[Question]], list[Any]], batch_size: int, most_waiting: int
    ) -> None:
        self.inputs = 0
        self._answer, self._batch_size, self._most = answer, batch_size, most_waiting
        self._waiting: deque[_Waiting] = deque()
        self._thread = ThreadPoolExecutor(1, "student")
        self._work: asyncio.Task[None] | None = None

    async def answer(self, question: Question) -> Any:
        """The answer to one question.

        Raises:
            Refused: If too many inputs wait.
            Exception: What answering this question raises.
        """
        size = len(question.rows)
        if self.inputs and self.inputs + size > self._most:
            raise Refused(503, f"{self.inputs} inputs are waiting; try again in a moment")
        found = asyncio.get_running_loop().create_future()
        self._waiting.append((question, found))
        self.inputs += size
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._answer_all())
        try:
            return await found
        finally:
            self.inputs -= size

    async def _answer_all(self) -> None:
        await asyncio.sleep(WAIT)
        while self._waiting:
            batch: list[_Waiting] = []
            room = self._batch_size
            while self._waiting and (not batch or len(self._waiting[0][0].rows) <= room):
                batch.append(self._waiting.popleft())
                room -= len(batch[-1][0].rows)
            questions = [question for question, _ in batch]
            loop = asyncio.get_running_loop()
            found = await loop.run_in_executor(self._thread, self._each, questions)
            for (_, future), one in zip(batch, found, strict=True):
                if future.done():  # its request was cancelled
                    continue
                if isinstance(one, Exception):
                    future.set_exception(one)
                else:
                    future.set_result(one)

    def _each(self, questions: Sequence[Question]) -> list[Any]:
        """The answers; an exception in the place of a question that cannot be answered."""
        try:
            return self._answer(questions)
        except Exception as error:
            if len(questions) == 1:
                return [error]
        half = len(questions) // 2
        return self._each(questions[:half]) + self._each(questions[half:])
