"""Export and import: what goes out comes in, whatever its size."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path

import pytest

from edgesync.cli.output import Output
from edgesync.cli.transfer import BATCH_DOCUMENTS, PIECE_BYTES, blobs_in, export, import_file
from edgesync.errors import ApiError, InvalidBodyError
from tests.api.box import Box

SIZES = (0, 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 5 * PIECE_BYTES, 3_000_000)


def silent() -> Output:
    return Output(as_json=True, stream=io.StringIO(), errors=io.StringIO(), environment={})


def test_documents_and_blobs_of_any_size_come_back(tmp_path: Path) -> None:
    rng = random.Random(3)
    contents = {f"photo-{size}": rng.randbytes(size) for size in SIZES}
    with Box(tmp_path) as box:
        for doc_id, content in contents.items():
            assert box.ask("PUT", f"/db/{doc_id}/pic", body=content).status == 201
        many = [{"_id": f"doc-{n:04}", "text": "x" * 100, "n": n} for n in range(1000)]
        box.ask("POST", "/db/_bulk_docs", {"docs": many})
        file = str(tmp_path / "all.jsonl")
        assert export(box.client, "db", file, silent()) == 1000 + len(SIZES)
        outcome = import_file(box.client, "db.inventory.items", file, silent(), replace=False)
        assert (outcome.stored, outcome.refused) == (1000 + len(SIZES), [])
        for doc_id, content in contents.items():
            assert box.ask("GET", f"/db.inventory.items/{doc_id}/pic").content == content
        keyspaces = ("db", "db.inventory.items")
        left, right = (box.ask("GET", f"/{k}/_all_docs?include_docs=true").json for k in keyspaces)
        assert left == right


def test_a_blob_that_several_documents_share_is_written_once(tmp_path: Path) -> None:
    with Box(tmp_path) as box:
        box.ask("PUT", "/db/one/pic", body=b"same")
        blob = box.ask("GET", "/db/one").json["pic"]
        box.ask("PUT", "/db/two", {"deep": [{"pic": blob}]})
        file = tmp_path / "all.jsonl"
        export(box.client, "db", str(file), silent())
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line.get("_blob", line.get("_id")) for line in lines] == [blob["digest"], "one", "two"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"_blob": "sha1-x", "data": "eA==", "last": false}\n{"_id": "x"}', "line 2: the rest"),
        ('{"_blob": "sha1-x", "data": "eA==", "last": false}', "line 2: the rest"),
        ('{"_blob": "sha1-x", "data": "eA==", "last": true}', "is another"),
        ('{"_blob": "sha1-x", "data": "?"}', "not base64"),
        ("[1]", "line 1 is not a JSON object"),
        ('{"_id": "ok"}\n{', "line 2 is not JSON"),
    ],
)
def test_a_line_that_is_wrong_is_named(tmp_path: Path, text: str, reason: str) -> None:
    file = tmp_path / "wrong.jsonl"
    file.write_text(text)
    with Box(tmp_path) as box, pytest.raises((InvalidBodyError, ApiError), match=reason):
        import_file(box.client, "db", str(file), silent(), replace=False)


def test_what_was_stored_before_a_wrong_line_is_told_and_may_come_again(tmp_path: Path) -> None:
    file = tmp_path / "wrong.jsonl"
    lines = [json.dumps({"_id": f"doc-{number}"}) for number in range(BATCH_DOCUMENTS)]
    file.write_text("\n".join([*lines, "{"]))
    with Box(tmp_path) as box:
        with pytest.raises(InvalidBodyError, match="is not JSON") as caught:
            import_file(box.client, "db", str(file), silent(), replace=False)
        assert caught.value.hint.startswith(f"stored so far: {BATCH_DOCUMENTS} documents;")
        file.write_text("\n".join([*lines, '{"_id": "last"}']))
        outcome = import_file(box.client, "db", str(file), silent(), replace=False)
    assert (outcome.stored, outcome.refused) == (BATCH_DOCUMENTS + 1, [])


def test_replacing_makes_new_revisions(tmp_path: Path) -> None:
    with Box(tmp_path) as box:
        rev = box.ask("PUT", "/db/x", {"n": 1}).json["rev"]
        file = tmp_path / "x.jsonl"
        file.write_text('{"_id": "x", "_rev": "9-ff", "n": 2}\n')
        refused = import_file(box.client, "db", str(file), silent(), replace=False)
        assert [each["id"] for each in refused.refused] == ["x"]
        assert import_file(box.client, "db", str(file), silent(), replace=True).stored == 1
        now = box.ask("GET", "/db/x").json
    assert (now["n"], now["_rev"][:2]) == (2, "2-")
    assert rev.startswith("1-")


def test_blobs_are_found_wherever_they_are() -> None:
    blob = {"@type": "blob", "digest": "sha1-a", "content_type": "image/png"}
    body = {"list": [1, {"deep": blob}], "pic": {"@type": "blob", "digest": "sha1-b"}, "x": None}
    assert [each["digest"] for each in blobs_in(body)] == ["sha1-a", "sha1-b"]
