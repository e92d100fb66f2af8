"""Documents over the local API, as programs on the box use them."""

from __future__ import annotations

import pytest

from tests.api.box import Box


def test_what_is_put_can_be_read(box: Box) -> None:
    saved = box.ask("PUT", "/db/boiler", {"setpoint": 21})
    assert saved.status == 201
    assert saved.json == {"id": "boiler", "rev": saved.json["rev"], "ok": True}
    read = box.ask("GET", "/db/boiler")
    assert read.json == {"_id": "boiler", "_rev": saved.json["rev"], "setpoint": 21}
    assert read.headers["etag"] == f'"{saved.json["rev"]}"'


def test_content_type_of_plain_curl_is_accepted(box: Box) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert box.ask("PUT", "/db/curl", {"n": 1}, headers=form).status == 201


@pytest.mark.parametrize("way", ["query", "header", "body"])
def test_the_current_revision_can_be_replaced(box: Box, way: str) -> None:
    rev = box.ask("PUT", f"/db/replaced-{way}", {"n": 1}).json["rev"]
    path, headers, body = f"/db/replaced-{way}", {}, {"n": 2}
    match way:
        case "query":
            path += f"?rev={rev}"
        case "header":
            headers = {"If-Match": f'"{rev}"'}
        case _:
            body = {"n": 2, "_rev": rev}
    assert box.ask("PUT", path, body, headers=headers).status == 201
    assert box.ask("GET", f"/db/replaced-{way}").json["n"] == 2


def test_a_lost_update_is_refused_with_the_way_out(box: Box) -> None:
    rev = box.ask("PUT", "/db/lost", {"n": 1}).json["rev"]
    refused = box.ask("PUT", "/db/lost", {"n": 2})
    assert refused.status == 409
    assert refused.json["error"] == "conflict"
    assert rev in refused.json["reason"]
    assert refused.json["hint"].startswith("read the document again")


def test_two_revisions_in_one_request_are_refused(box: Box) -> None:
    reply = box.ask("PUT", "/db/two?rev=1-aa", {"_rev": "1-bb"})
    assert (reply.status, reply.json["error"]) == (400, "bad_request")


def test_a_deleted_document_is_gone_and_can_be_made_again(box: Box) -> None:
    rev = box.ask("PUT", "/db/gone", {"n": 1}).json["rev"]
    assert box.ask("DELETE", f"/db/gone?rev={rev}").status == 200
    assert box.ask("GET", "/db/gone").status == 404
    assert box.ask("PUT", "/db/gone", {"n": 2}).status == 201


def test_deleting_without_a_revision_is_a_conflict(box: Box) -> None:
    box.ask("PUT", "/db/kept", {"n": 1})
    assert box.ask("DELETE", "/db/kept").status == 409
    assert box.ask("GET", "/db/kept").status == 200


def test_deleting_what_is_not_there_is_not_found(box: Box) -> None:
    assert box.ask("DELETE", "/db/never").status == 404


def test_a_body_with_deleted_makes_a_tombstone(box: Box) -> None:
    rev = box.ask("PUT", "/db/tomb", {"n": 1}).json["rev"]
    assert box.ask("PUT", "/db/tomb", {"_rev": rev, "_deleted": True}).status == 200
    assert box.ask("GET", "/db/tomb").status == 404


@pytest.mark.parametrize("name", ["a%2Fb", "%C3%BC%20%3F", "a%25b", "_%2F".replace("_", "x")])
def test_any_name_can_be_quoted(box: Box, name: str) -> None:
    assert box.ask("PUT", f"/db/{name}", {"n": 1}).status == 201
    assert box.ask("GET", f"/db/{name}").json["n"] == 1


def test_post_makes_a_document_with_an_id_of_its_own(box: Box) -> None:
    for path in ("/db/", "/db"):
        saved = box.ask("POST", path, {"n": 1})
        assert saved.status == 201
        assert box.ask("GET", f"/db/{saved.json['id']}").json["n"] == 1


def test_head_tells_of_a_document_without_its_body(box: Box) -> None:
    box.ask("PUT", "/db/head", {"n": 1})
    reply = box.ask("HEAD", "/db/head")
    assert (reply.status, reply.content) == (200, b"")
    assert box.ask("HEAD", "/db/no-head").status == 404


def test_keyspaces_are_apart(box: Box) -> None:
    box.ask("PUT", "/db.inventory.items/bolt", {"n": 1})
    assert box.ask("GET", "/db.inventory.items/bolt").status == 200
    assert box.ask("GET", "/db/bolt").status == 404
    assert box.ask("GET", "/db._default/bolt").status == 404


def test_a_keyspace_says_how_many_documents_it_has(box: Box) -> None:
    before = box.ask("GET", "/db").json["doc_count"]
    box.ask("POST", "/db", {})
    assert box.ask("GET", "/db/").json["doc_count"] == before + 1


@pytest.mark.parametrize("path", ["/nodb/doc", "/db.nowhere/doc", "/db.no.where/doc"])
def test_an_unknown_keyspace_is_named_with_those_that_there_are(box: Box, path: str) -> None:
    reply = box.ask("GET", path)
    assert (reply.status, reply.json["error"]) == (404, "not_found")
    assert path.split("/")[1] in reply.json["reason"]
    assert "db" in reply.json["hint"]


@pytest.mark.parametrize("body", [b"{", b"[1]", b'"text"', b"\xff"])
def test_what_is_no_json_object_is_refused(box: Box, body: bytes) -> None:
    reply = box.ask("PUT", "/db/bad", body=body)
    assert (reply.status, reply.json["error"]) == (400, "bad_request")


def test_properties_with_an_underscore_are_refused(box: Box) -> None:
    assert box.ask("PUT", "/db/under", {"_secret": 1}).status == 400


def test_the_path_and_the_body_name_the_same_document(box: Box) -> None:
    assert box.ask("PUT", "/db/one", {"_id": "other"}).status == 400


def test_a_document_above_the_limit_is_refused(tmp_path: object, box: Box) -> None:
    reply = box.ask("PUT", "/db/large", {"text": "x" * (21 * 1024 * 1024)})
    assert (reply.status, reply.json["error"]) == (413, "too_large")


# --- many ------------------------------------------------------------------------


def test_bulk_stores_what_it_can_and_tells_of_the_rest(box: Box) -> None:
    box.ask("PUT", "/db/bulk-taken", {"n": 1})
    docs = [{"_id": "bulk-new", "n": 1}, {"_id": "bulk-taken", "n": 2}, {"n": 3}, {"_id": "_x"}]
    reply = box.ask("POST", "/db/_bulk_docs", {"docs": docs})
    assert reply.status == 201
    new, taken, unnamed, bad = reply.json
    assert new == {"id": "bulk-new", "rev": new["rev"], "ok": True}
    assert (taken["id"], taken["status"], taken["error"]) == ("bulk-taken", 409, "conflict")
    assert unnamed["ok"]
    assert (bad["status"], bad["error"]) == (400, "bad_request")


def test_bulk_deletes(box: Box) -> None:
    rev = box.ask("PUT", "/db/bulk-gone", {"n": 1}).json["rev"]
    docs = [{"_id": "bulk-gone", "_rev": rev, "_deleted": True}]
    assert box.ask("POST", "/db/_bulk_docs", {"docs": docs}).json[0]["ok"]
    assert box.ask("GET", "/db/bulk-gone").status == 404


@pytest.mark.parametrize("value", [{}, {"docs": 1}, {"docs": [1]}])
def test_bulk_without_documents_is_refused(box: Box, value: object) -> None:
    assert box.ask("POST", "/db/_bulk_docs", value).status == 400


def test_all_docs_come_in_the_order_of_their_ids(box: Box) -> None:
    ids = ["list-ä", "list-a", "list-b", "list-\U0001d11e", "list-\uffff"]
    box.ask("POST", "/db/_bulk_docs", {"docs": [{"_id": each} for each in ids]})
    reply = box.ask("GET", '/db/_all_docs?startkey="list-"&endkey="list-%F0%9D%84%9E"').json
    found = [row["id"] for row in reply["rows"]]
    assert found == ["list-a", "list-b", "list-ä", "list-\uffff", "list-\U0001d11e"]
    assert reply["total_rows"] >= len(ids)


def test_all_docs_begin_with_the_start_and_end_at_the_limit(box: Box) -> None:
    docs = [{"_id": f"page-{n:03}", "n": n} for n in range(450)]
    box.ask("POST", "/db/_bulk_docs", {"docs": docs})
    path = '/db/_all_docs?startkey="page-010"&limit=300&include_docs=true'
    rows = box.ask("GET", path).json["rows"]
    assert [row["doc"]["n"] for row in rows] == list(range(10, 310))
    assert rows[0]["value"]["rev"] == rows[0]["doc"]["_rev"]


@pytest.mark.parametrize("query", ["limit=x", "limit=-1", "include_docs=maybe"])
def test_a_wrong_parameter_is_named(box: Box, query: str) -> None:
    reply = box.ask("GET", f"/db/_all_docs?{query}")
    assert reply.status == 400
    assert query.partition("=")[0] in reply.json["reason"]
