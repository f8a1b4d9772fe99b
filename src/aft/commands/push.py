"""The command `push`: publish a trained student, or an export, on the Hugging Face Hub."""

from __future__ import annotations

from typing import Any

from aft.commands.checks import EXPORT, check, pushed_folder
from aft.config.commands import PushConfig
from aft.config.typed import command
from aft.exporting.card import CARD, HERE, make_card
from aft.hub import upload
from aft.students.saved import check_student


@command(PushConfig)
def push(config: PushConfig) -> dict[str, Any]:
    """Publish a trained student, or an export, on the Hugging Face Hub; RUN and REPO come first.

    Returns:
        ``repo``; ``files``, the number of files; ``commit``, the address of the commit; ``load``,
        what :func:`aft.load_student` takes, for a student.

    Raises:
        AftError: If there is nothing to push, the files are damaged, there is no token, or the Hub
            cannot be reached or refuses.
    """
    check(config)
    folder = pushed_folder(config.run)
    is_student = not (folder / EXPORT).is_file()
    address = f"hf://{config.repo}" + (f"@{config.revision}" if config.revision else "")
    places = [one for one in sorted(folder.rglob("*")) if one.is_file()]
    files: dict[str, Any] = {
        one.relative_to(folder).as_posix(): one for one in places if not one.name.startswith(".")
    }
    if is_student:
        check_student(folder)
        card = folder / CARD
        text = card.read_text("utf-8") if card.exists() else make_card(folder, folder)
        files[CARD] = text.replace(HERE, HERE.replace('."', f'{address}"')).encode()
    options = config.model_dump(include={"private", "revision", "message"})
    commit = upload(config.repo, files, **options)
    pushed = {"repo": config.repo, "files": len(files), "commit": commit}
    return pushed | ({"load": address} if is_student else {})
