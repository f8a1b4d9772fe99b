"""Inject faults, and look at what the next command does: is anything silently wrong?

    python benchmarks/faults.py                # all faults, two processes
    python benchmarks/faults.py --only 5 17    # those of these numbers

Prepares a small world once: texts, pictures, feature stores, a finished run, an interrupted one and
a comparison. Each fault starts from a copy of it: a command is killed, a file is damaged, the disk
is full, data change, two processes write at once, a worker dies, or a file holds somebody's code.
Then a command runs, and its result is compared with that of the undisturbed world:

    equal     it succeeds with the same result, to the bit
    refused   it fails with an error of aft, without a traceback
    silent    it succeeds with another result
    trace     it fails with a traceback
    hang      it does not end
    code      it ran code from a file that nobody asked to run

Which fault, file, place and moment is drawn from the seed. Results go to results/faults.json, the
table to docs/promises.md. Takes about 30 minutes on two cores. Needs Linux. Full and read-only
disks are small mounts of their own, which needs root; without it, the size of files is limited and
the permissions of folders are taken away instead.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import ctypes
import hashlib
import json
import mmap
import os
import pickle
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import psutil
import torch
from PIL import Image

import aft
import tables
from aft.cli import main as aft_command
from aft.data.loading import load_data
from aft.errors import AftError
from aft.features.store import find_stores

RESULTS = Path(__file__).parent / "results" / "faults.json"
SECONDS = 120
"""A command that takes longer hangs."""
SHARES = {
    **{"killed": 0.24, "damaged": 0.5, "full disk": 0.05, "read-only": 0.03},
    **{"two writers": 0.04, "changed data": 0.07, "dead worker": 0.02, "code": 0.05},
}
"""Share of the faults that are of each kind."""
WRONG = ("silent", "trace", "hang", "code")

TEACHER = """
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from aft import Tokenization

WORDS = "[UNK] fine warm kind cold dull grey the a of it was day house road".split()

class Counts(torch.nn.Module):
    def forward(self, tokens):
        found = torch.nn.functional.one_hot(tokens.clamp(min=0), len(WORDS)).float()
        return (found * (tokens >= 0)[..., None]).sum(1)

def teacher():
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return Counts(), Tokenization(tokenizer.to_str(), 16)
"""
COMMON = ["--device", "cpu", "--no-progress"]
SMALL = ["--steps", "8", "--eval-every", "4", "--batch-size", "8", *COMMON]
LEARN = [
    *(
        "--data",
        "texts.csv",
        "--student",
        "small:static?dim=8",
        "--teachers",
        "python:words.py:teacher",
    ),
    *("--features", "features", *SMALL),
]
COMMANDS: dict[str, list[str]] = {
    "extract": [
        *("extract", "--data", "texts.csv", "--teachers", "python:words.py:teacher"),
        *("--features", "features", *COMMON),
    ],
    "verify": ["inspect", "--features", "features", "--verify"],
    "train": ["train", *LEARN, "--no-baselines", "--out", "new", "--resume"],
    "workers": ["train", *LEARN, "--no-baselines", "--out", "new", "--num-workers", "1"],
    "resume": ["train", *LEARN, "--no-baselines", "--out", "half", "--resume"],
    "finished": ["train", *LEARN, "--no-baselines", "--out", "run", "--resume"],
    "pictures": [
        *("train", "--data", "pictures", "--student", "small:cnn?size=16", "--out", "new"),
        *(*SMALL, "--no-baselines"),
    ],
    "predict": [
        *("predict", "--run", "run", "--data", "texts.csv", "--out", "predictions.csv"),
        *("--overwrite", *COMMON),
    ],
    "evaluate": ["evaluate", "--run", "run", *COMMON],
    "inspect": ["inspect", "--run", "run", "--verify"],
    "compare": [
        *("compare", *LEARN, "--out", "comparison", "--methods", "alone", "aft-soft"),
        *("--seeds", "2", "--no-probes"),
    ],
}
READERS = {
    "features": ("extract", "verify", "train"),
    "half": ("resume",),
    "run": ("finished", "predict", "evaluate", "inspect"),
    "comparison": ("compare",),
    "cache": ("pictures",),
}
"""Commands that read each folder of the world."""


@dataclass(frozen=True)
class Kill:
    """When to kill a command: as it changes a file for the ``event``-th time, or by the clock."""

    event: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Done:
    """What a command did: exit status (None if it did not end), stdout, stderr, file changes."""

    status: int | None
    out: str
    err: str
    events: int


@dataclass(frozen=True)
class Fault:
    """One fault and what came of it."""

    kind: str
    command: str
    detail: str
    outcome: str
    seconds: float
    said: str = ""


class Command:
    """A command that runs in a world, in a forked process which has everything imported.

    Args:
        world: The folder that it runs in.
        name: Key of :data:`COMMANDS`.
        kill: When to kill it.
        first: Called in the process before the command.
    """

    def __init__(
        self, world: Path, name: str, kill: Kill | None = None, first: Callable[[], None] = int
    ) -> None:
        self.counter = mmap.mmap(-1, 8)
        pipes = [os.pipe() for _ in "oe"]  # not files, whose size a fault may limit
        self.said = [reading for reading, _ in pipes]
        self.process = os.fork()
        if self.process:
            for _, writing in pipes:
                os.close(writing)
            return
        status = 70
        try:
            for number, (_, writing) in enumerate(pipes, start=1):
                os.dup2(writing, number)
            sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
            os.setpgid(0, 0)
            os.chdir(world)
            os.environ["AFT_CACHE"] = str(world / "cache")
            self._watch(str(world), kill or Kill())
            first()
            status = call(COMMANDS[name])
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(status)

    def _watch(self, world: str, kill: Kill) -> None:
        changes = {"os.rename", "os.remove", "os.mkdir"}

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            writes = event == "open" and arguments[2] is not None and arguments[2] & 3
            if not (event in changes or writes):
                return
            if not isinstance(arguments[0], str | bytes | os.PathLike):  # opened before, by number
                return
            path = os.path.abspath(os.fsdecode(arguments[0]))
            if not path.startswith(world):
                return
            (count,) = struct.unpack("q", self.counter[:8])
            self.counter[:8] = struct.pack("q", count + 1)
            if count + 1 == kill.event:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        if kill.seconds:
            signal.setitimer(signal.ITIMER_REAL, kill.seconds)  # nobody catches SIGALRM

    def wait(self) -> Done:
        """Wait for the command; after :data:`SECONDS` it is killed."""
        deadline = time.monotonic() + SECONDS
        status: int | None = None
        while status is None and time.monotonic() < deadline:
            done, given = os.waitpid(self.process, os.WNOHANG)
            status = os.waitstatus_to_exitcode(given) if done else None
            time.sleep(0.01)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process, signal.SIGKILL)  # and its workers
        if status is None:
            os.waitpid(self.process, 0)
        out, err = (os.fdopen(one, errors="replace").read() for one in self.said)
        return Done(status, out, err, struct.unpack("q", self.counter[:8])[0])


def call(arguments: list[str]) -> int:
    """Run `aft` with these arguments; returns the exit status."""
    sys.argv = ["aft", *arguments]
    try:
        returned = aft_command()
    except SystemExit as error:
        returned = error.code  # type: ignore[assignment]
    except BaseException:
        traceback.print_exc()
        return 1
    if isinstance(returned, str):
        print(returned, file=sys.stderr)
    return returned if isinstance(returned, int) else int(returned is not None)


def result_of(world: Path, name: str, done: Done) -> Any:
    """What has to be equal after a command; None if there is nothing."""
    folder = {"resume": "half", "finished": "run", "compare": "comparison"}.get(name, "new")
    try:
        if name in ("evaluate", "inspect"):
            return done.out
        if name == "predict":
            return (world / "predictions.csv").read_bytes()
        if name in ("extract", "verify"):
            ids = load_data(str(world / "texts.csv"), progress=False).splits["train"].ids
            (store,) = find_stores(world / "features")
            return store.gather(ids).numpy().tobytes()
        if name == "compare":
            methods = json.loads((world / folder / "compare.json").read_text())["settings"][0]
            return [[r["score"] for r in m["runs"]] for m in methods["methods"].values()]
        scores = json.loads((world / folder / "result.json").read_text())["metrics"]
        if name == "finished":
            return scores
        weights = (world / folder / "student" / "model.safetensors").read_bytes()
        return scores, hashlib.sha256(weights).hexdigest()
    except AftError:
        return "refused"
    except (OSError, ValueError, KeyError):
        return None


def judge(world: Path, name: str, done: Done, expected: Any) -> str:
    """The outcome of a command, see the top of this file."""
    if (world / "code-ran").exists():
        return "code"
    if done.status is None:
        return "hang"
    if done.status != 0:
        trace = "Traceback (most recent call last)" in done.err + done.out
        return "refused" if done.err.strip() and done.status > 0 and not trace else "trace"
    found = result_of(world, name, done)
    if found == "refused":  # by those who read the features
        return "refused"
    return "equal" if found == expected else "silent"


def make_world(world: Path) -> None:
    """Write the data and the teacher, and run the commands whose files are damaged later."""
    rng = random.Random(0)
    words = {"good": ["fine", "warm", "kind"], "bad": ["cold", "dull", "grey"]}
    shared = ["the", "a", "of", "it", "was", "day", "house", "road"]
    rows = [("text", "label")]
    for number in range(60):
        label = ("good", "bad")[number % 2]
        text = rng.choices(words[label], k=2) + rng.choices(shared, k=6) + [f"n{number}"]
        rows.append((" ".join(text), label if number < 44 else ""))
    write_rows(world, rows)
    (world / "words.py").write_text(TEACHER)
    for number in range(24):
        path = world / "pictures" / ("red", "blue")[number % 2] / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        colour = [rng.randrange(90) for _ in range(3)]
        colour[0 if number % 2 == 0 else 2] += 150
        Image.new("RGB", (20, 20), tuple(colour)).save(path)
    for name in ("extract", "finished", "pictures", "compare"):
        must(world, name)
    shutil.rmtree(world / "new")
    events = must(world, "resume").events
    while not (world / "half/checkpoints/last.pt").exists() or is_finished(world / "half"):
        shutil.rmtree(world / "half")
        events -= 1
        Command(world, "resume", Kill(event=events)).wait()


def is_finished(run: Path) -> bool:
    return (run / "result.json").exists()


def must(world: Path, name: str) -> Done:
    """Run a command that has to succeed."""
    done = Command(world, name).wait()
    if done.status != 0:
        raise RuntimeError(f"{name} failed without a fault: {done.err}")
    return done


def write_rows(world: Path, rows: list[tuple[str, str]]) -> None:
    with (world / "texts.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)


@dataclass(frozen=True)
class Undisturbed:
    """Result, number of file changes and seconds of a command without a fault."""

    result: Any
    events: int
    seconds: float


class Injector:
    """Injects faults into copies of a world.

    Args:
        world: The undisturbed world.
        scratch: Folder for the copies.
    """

    def __init__(self, world: Path, scratch: Path) -> None:
        self.world = world
        self.scratch = scratch
        self.undisturbed = cache(self._run_undisturbed)

    def _run_undisturbed(self, name: str) -> Undisturbed:
        with self.copy("undisturbed") as world:
            started = time.monotonic()
            done = must(world, name)
            return Undisturbed(
                result_of(world, name, done), done.events, time.monotonic() - started
            )

    @contextlib.contextmanager
    def copy(self, name: str = "world") -> Iterator[Path]:
        """A copy of the world, which is deleted at the end. Times of modification are kept."""
        world = self.scratch / name
        shutil.copytree(self.world, world, symlinks=True)
        try:
            yield world
        finally:
            subprocess.run(["chmod", "-R", "u+w", str(world)], check=True)
            shutil.rmtree(world)

    def inject(self, number: int) -> Fault:
        """Inject the fault of this number, and judge what the next command does."""
        rng = random.Random(number)
        kind = rng.choices(list(SHARES), list(SHARES.values()))[0]
        started = time.monotonic()
        with self.copy() as world:
            make = getattr(self, kind.replace(" ", "_").replace("-", "_"))
            name, detail, outcome, done = make(world, rng)
        said = done.err.strip()[-600:] if outcome in WRONG else ""
        seconds = round(time.monotonic() - started, 2)
        return Fault(kind, name, detail, outcome, seconds, said)

    def again(self, world: Path, name: str) -> tuple[str, Done]:
        """Run a command, and judge what it did."""
        done = Command(world, name).wait()
        return judge(world, name, done, self.undisturbed(name).result), done

    def killed(self, world: Path, rng: random.Random) -> tuple[str, str, str, Done]:
        name = rng.choice(["extract", "train", "train", "resume", "compare", "predict"])
        if name == "extract":
            shutil.rmtree(world / "features")
        if name == "compare":
            shutil.rmtree(world / "comparison")
        events, seconds = max(self.undisturbed(name).events, 12), self.undisturbed(name).seconds
        by_clock = rng.random() < 0.3
        kill = (
            Kill(seconds=rng.uniform(0.01, seconds)) if by_clock else Kill(rng.randint(1, events))
        )
        Command(world, name, kill).wait()
        return (name, str(kill), *self.again(world, name))

    def damaged(self, world: Path, rng: random.Random) -> tuple[str, str, str, Done]:
        folder = rng.choices(list(READERS), [4, 3, 4, 3, 1])[0]
        files = sorted(f for f in (world / folder).rglob("*") if f.is_file() and f.stat().st_size)
        files = [file for file in files if "tensorboard" not in file.parts]
        name = rng.choice(READERS[folder])
        file = rng.choice(files)
        alike = [one for one in files if one.suffix == file.suffix and one != file]
        how = damage(file, alike, rng)
        return (name, f"{how} {file.relative_to(world)}", *self.again(world, name))

    def full_disk(self, world: Path, rng: random.Random) -> tuple[str, str, str, Done]:
        name = rng.choice(["extract", "train", "resume", "compare", "predict"])
        if name == "extract":
            shutil.rmtree(world / "features")
        if name == "compare":
            shutil.rmtree(world / "comparison")
        pages = rng.choice([0, 1, 10, 30, 100])
        with own_disk(world) as mounted:
            if mounted:
                size = shutil.disk_usage(world).used + pages * mmap.PAGESIZE
                mount("-o", f"remount,size={size}", str(world))
                detail, limit = f"{pages} pages of disk left", partial(int)
            else:
                detail, most = f"files of {100 * pages} bytes", (100 * pages, 100 * pages)
                limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, most)
            done = Command(world, name, first=limit).wait()
            outcome = judge(world, name, done, self.undisturbed(name).result)
            if outcome not in WRONG:
                detail += ", then again"
                if mounted:
                    mount("-o", "remount,size=1g", str(world))
                outcome, done = self.again(world, name)
        return name, detail, outcome, done

    def read_only(self, world: Path, rng: random.Random) -> tuple[str, str, str, Done]:
        name, folder = rng.choice(
            [
                *(("train", ""), ("train", "features"), ("train", "cache"), ("resume", "half")),
                *(("predict", ""), ("compare", "comparison"), ("pictures", "cache")),
            ]
        )
        if folder == "features":
            shutil.rmtree(world / "features")
            (world / "features").mkdir()
        with own_disk(world / folder) as mounted:
            if mounted:
                mount("-o", "remount,ro", str(world / folder))
            else:
                for path in [world / folder, *(world / folder).rglob("*")]:
                    path.chmod(0o555 if path.is_dir() else 0o444)
            done = Command(world, name, first=int if mounted else drop_privileges).wait()
            return name, folder, judge(world, name, done, self.undisturbed(name).result), done

    def two_writers(self, world: Path, rng: random.Random) -> tuple[str, str, str, Done]:
        name = rng.choice(["extract", "train", "compare", "resume"])
        if name == "extract":
            shutil.rmtree(world / "features")
        if name == "compare":
            shutil.rmtree(world / "comparison")
        first = Command(world, name)
        gap = rng.uniform(0, self.undisturbed(name).seconds)
        time.sleep(gap)
        second = Command(world, name)
        both = [first.wait(), second.wait()]
        found = [judge(world, name, done, self.undisturbed(name).result) for done in both]
        wrong = [i for i in (0, 1) if found[i] in WRONG]
        if wrong or "equal" not in found:
            return name, f"after {gap:.2f} s", found[(wrong or [0])[0]], both[(wrong or [0])[0]]
        return (name, f"after {gap:.2f} s: {found}, then again", *self.again(world, name))

    def changed_data(self, world: Path, rng: random.Random) -> tuple[str, str, str, Done]:
        name = rng.choice(["resume", "finished", "evaluate", "compare"])
        with (world / "texts.csv").open(newline="") as file:
            rows = [(text, label) for text, label in csv.reader(file)]
        how = rng.choice(["a label", "a text", "a row less", "a row more", "two rows exchanged"])
        place = rng.randrange(1, 45)
        if how == "a label":
            rows[place] = (rows[place][0], "bad" if rows[place][1] != "bad" else "good")
        elif how == "a text":
            rows[place] = (rows[place][0] + " again", rows[place][1])
        elif how == "a row less":
            del rows[place]
        elif how == "a row more":
            rows.insert(place, ("another day", "good"))
        else:
            other = place - 1 if place > 1 else 2
            rows[place], rows[other] = rows[other], rows[place]
        write_rows(world, rows)
        done = Command(world, name).wait()
        outcome = judge(world, name, done, None)  # any success means that nobody noticed
        return name, f"{how} at {place}", outcome, done

    def dead_worker(self, world: Path, rng: random.Random) -> tuple[str, str, str, Done]:
        command = Command(world, "workers")
        delay = rng.uniform(0.2, 0.8 * self.undisturbed("workers").seconds)
        time.sleep(delay)
        with contextlib.suppress(psutil.Error):
            for worker in psutil.Process(command.process).children():
                worker.kill()
        done = command.wait()
        outcome = judge(world, "workers", done, self.undisturbed("workers").result)
        return "workers", f"killed after {delay:.2f} s", outcome, done

    def code(self, world: Path, rng: random.Random) -> tuple[str, str, str, Done]:
        folder = rng.choice(list(READERS))
        name = rng.choice(READERS[folder])
        files = sorted(file for file in (world / folder).rglob("*") if file.is_file())
        file = rng.choice([file for file in files if "tensorboard" not in file.parts])
        detail = f"a pickle in {file.relative_to(world)}"
        if folder == "run" and rng.random() < 0.3:
            (world / "evil.py").write_text(f"open({str(world / 'code-ran')!r}, 'w')\n")
            file = world / "run/student/student.json"
            text = json.loads(file.read_text())
            text["info"]["architecture_spec"] = "python:evil.py:make"
            del text["sha256"]
            file.write_text(json.dumps(text))
            detail = "python: in student.json"
        else:
            file.write_bytes(pickle.dumps(Marks(str(world / "code-ran"))))
        return (name, detail, *self.again(world, name))


@contextlib.contextmanager
def own_disk(folder: Path) -> Iterator[bool]:
    """Put a folder on a disk of its own; yields whether that was possible (it needs root)."""
    beside = folder.parent / "beside"
    if os.geteuid() or not shutil.which("mount"):
        yield False
        return
    folder.rename(beside)
    folder.mkdir(0o755)
    try:
        mount("-t", "tmpfs", "tmpfs", str(folder))
    except subprocess.CalledProcessError:
        folder.rmdir()
        beside.rename(folder)
        yield False
        return
    try:
        shutil.copytree(beside, folder, symlinks=True, dirs_exist_ok=True)
        yield True
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
        shutil.rmtree(beside)


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, capture_output=True)


class Marks:
    """Writes a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.path, "w")


def drop_privileges() -> None:
    """Give up the capabilities of root, to whom no file is read-only (capset(2))."""
    header = struct.pack("=Ii", 0x20080522, 0)
    if ctypes.CDLL(None, use_errno=True).capset(header, bytes(24)):
        raise OSError(ctypes.get_errno(), "capset")


def damage(file: Path, alike: list[Path], rng: random.Random) -> str:
    """Damage a file in one of several ways; returns which."""
    data = bytearray(file.read_bytes())
    place = rng.randrange(len(data))
    how = rng.choice(["flip", "flip", "byte", "cut", "zeros", "empty", "more", "swap"])
    if how == "flip":
        data[place] ^= 1 << rng.randrange(8)
    elif how == "byte":
        data[place] = (data[place] + rng.randrange(1, 256)) % 256
    elif how == "cut":
        del data[place:]
    elif how == "zeros":
        data[place : place + 64] = bytes(len(data[place : place + 64]))
    elif how == "empty":
        data.clear()
    elif how == "more":
        data += rng.randbytes(rng.randrange(1, 100))
    elif alike:
        data = bytearray(rng.choice(alike).read_bytes())
    file.write_bytes(data)
    return f"{how} at {place} of"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--number", type=int, default=640, help="number of faults")
    parser.add_argument("--jobs", type=int, default=2, help="number of processes")
    parser.add_argument("--only", type=int, nargs="+", help="only the faults of these numbers")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--share", help=argparse.SUPPRESS)  # of one process: its number
    options = parser.parse_args()
    if options.share is not None:
        inject_share(options)
        return
    options.only = options.only or list(range(options.number))
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        parts = [Path(folder) / f"{job}.jsonl" for job in range(options.jobs)]
        given = ["--jobs", str(options.jobs), "--only", *map(str, options.only)]
        processes = [
            subprocess.Popen(
                [sys.executable, __file__, *given, "--share", str(job), "--out", str(part)]
            )
            for job, part in enumerate(parts)
        ]
        if sum(abs(process.wait()) for process in processes):
            raise SystemExit("a process failed")
        lines = [line for part in parts for line in part.read_text().splitlines()]
    faults = sorted(map(json.loads, lines), key=lambda fault: fault["number"])
    document = {
        "command": f"python benchmarks/faults.py --number {options.number}",
        "version": aft.__version__,
        "machine": tables.machine(),
        "seconds": round(time.monotonic() - started),
        "faults": faults,
    }
    options.out.write_text(json.dumps(document, indent=1) + "\n")
    print(as_table(document))
    if options.out == RESULTS:
        tables.put("faults", as_table(document), ["docs/promises.md"])
    for fault in faults:
        if fault["outcome"] in WRONG:
            print(json.dumps(fault), file=sys.stderr)
    if any(fault["outcome"] in WRONG for fault in faults):
        raise SystemExit(1)


def inject_share(options: argparse.Namespace) -> None:
    """Inject every ``jobs``-th fault of the chosen ones, and write one line for each."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        world = Path(folder) / "whole"
        world.mkdir()
        os.chmod(folder, 0o755)
        make_world(world)
        injector = Injector(world, Path(folder))
        with options.out.open("w") as file:
            for number in options.only[int(options.share) :: options.jobs]:
                fault = injector.inject(number)
                line = {"number": number, **asdict(fault)}
                print(json.dumps(line), file=file, flush=True)
                print(f"{number}: {fault.kind}, {fault.command}, {fault.outcome}")


def as_table(document: dict[str, Any]) -> str:
    """Number of faults by kind, command and outcome."""
    outcomes = ("equal", "refused", *WRONG)
    lines = [f"| fault | command | {' | '.join(outcomes)} |", "|---|---" + "|---" * len(outcomes)]
    lines[1] += "|"
    counted = Counter((f["kind"], f["command"], f["outcome"]) for f in document["faults"])
    for kind in SHARES:
        for name in COMMANDS:
            row = [counted[kind, name, outcome] for outcome in outcomes]
            if any(row):
                lines.append(f"| {kind} | {name} | {' | '.join(map(str, row))} |")
    totals = [sum(f["outcome"] == outcome for f in document["faults"]) for outcome in outcomes]
    lines.append(f"| all | | {' | '.join(map(str, totals))} |")
    made = f"Made by `{document['command']}` ({document['machine']})."
    return "\n".join(lines) + f"\n\n{made}\n"


if __name__ == "__main__":
    main()
