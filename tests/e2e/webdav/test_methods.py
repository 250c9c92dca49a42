"""What each method means, over the wire."""

from __future__ import annotations

import re
import time
from email.utils import formatdate
from xml.etree import ElementTree

import pytest

from tests.e2e.webdav.servers import Answer, Server, Start

D = "{DAV:}"
PAST = "Sun, 06 Nov 1994 08:49:37 GMT"
PAST_SECONDS = 784111777


def properties(answer: Answer) -> dict[str, dict[str, ElementTree.Element]]:
    """href → name of the property → element, of those with status 200."""
    assert answer.status == 207, answer
    root = ElementTree.fromstring(answer.body)
    assert root.tag == f"{D}multistatus"
    found: dict[str, dict[str, ElementTree.Element]] = {}
    for response in root.findall(f"{D}response"):
        href = response.findtext(f"{D}href") or ""
        assert href not in found
        found[href] = {}
        for propstat in response.findall(f"{D}propstat"):
            if "200" in (propstat.findtext(f"{D}status") or ""):
                for element in propstat.find(f"{D}prop") or ():
                    found[href][element.tag] = element
    return found


def propfind(server: Server, path: str, body: str = "", depth: str = "0") -> Answer:
    return server.request("PROPFIND", path, body, {"Depth": depth})


def one_property(server: Server, path: str, name: str) -> str | None:
    namespace, _, local = name[1:].partition("}")
    body = f'<D:propfind xmlns:D="DAV:"><D:prop><x:{local} xmlns:x="{namespace}"/></D:prop></D:propfind>'
    found = next(iter(properties(propfind(server, path, body)).values()))
    return found[name].text if name in found else None


def proppatch(server: Server, path: str, changes: str) -> Answer:
    body = f'<D:propertyupdate xmlns:D="DAV:" xmlns:Z="urn:schemas-microsoft-com:">{changes}</D:propertyupdate>'
    return server.request("PROPPATCH", path, body)


def set_property(content: str) -> str:
    return f"<D:set><D:prop>{content}</D:prop></D:set>"


# GET and HEAD


@pytest.mark.parametrize(
    ("wanted", "status", "start", "stop"),
    [
        ("bytes=0-0", 206, 0, 1), ("bytes=2-4", 206, 2, 5), ("bytes=5-", 206, 5, 10), ("bytes=-3", 206, 7, 10),
        ("bytes=8-99", 206, 8, 10), ("bytes=-99", 206, 0, 10), ("BYTES = 1-1", 206, 1, 2),
        ("bytes=0-1,3-4", 200, 0, 10), ("bytes=4-2", 200, 0, 10), ("lines=1-2", 200, 0, 10), ("bytes=x", 200, 0, 10),
        ("bytes=-", 200, 0, 10), ("bytes=10-", 416, 0, 0), ("bytes=10-20", 416, 0, 0), ("bytes=-0", 416, 0, 0),
    ],
)  # fmt: skip
def test_ranges(server: Server, wanted: str, status: int, start: int, stop: int) -> None:
    data = b"0123456789"
    server.put("/range", data)
    for method in ("GET", "HEAD"):
        answer = server.request(method, "/range", headers={"Range": wanted})
        assert answer.status == status
        if status == 416:
            assert answer.headers["content-range"] == "bytes */10"
            continue
        assert answer.headers["content-length"] == str(stop - start)
        assert answer.body == (data[start:stop] if method == "GET" else b"")
        if status == 206:
            assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/10"
        else:
            assert answer.headers["accept-ranges"] == "bytes"


def test_range_of_an_empty_file(server: Server) -> None:
    server.put("/empty-range", b"")
    assert server.request("GET", "/empty-range", headers={"Range": "bytes=0-"}).status == 416
    assert server.request("GET", "/empty-range").headers["content-length"] == "0"


def test_if_range(server: Server) -> None:
    tag = server.request("PUT", "/if-range", b"0123456789").headers["etag"]
    part = {"Range": "bytes=1-2"}
    assert server.request("GET", "/if-range", headers={**part, "If-Range": tag}).body == b"12"
    assert server.request("GET", "/if-range", headers={**part, "If-Range": '"other"'}).body == b"0123456789"
    assert server.request("GET", "/if-range", headers={**part, "If-Range": PAST}).body == b"0123456789"
    changed = server.request("HEAD", "/if-range").headers["last-modified"]
    answer = server.request("GET", "/if-range", headers={**part, "If-Range": changed})
    assert answer.body == b"0123456789", "two contents may have one time"


def test_conditional_get(server: Server) -> None:
    tag = server.request("PUT", "/conditional", b"x", {"X-OC-Mtime": "1000000000"}).headers["etag"]
    later, earlier = formatdate(1000000000, usegmt=True), formatdate(999999999, usegmt=True)

    def get(**headers: str) -> int:
        return server.request(
            "GET", "/conditional", headers={k.replace("_", "-"): v for k, v in headers.items()}
        ).status

    assert get(If_None_Match=tag) == 304
    assert get(If_None_Match=f'W/{tag}, "x"') == 304
    assert get(If_None_Match="*") == 304
    assert get(If_None_Match='"x"') == 200
    assert get(If_Modified_Since=later) == 304
    assert get(If_Modified_Since=earlier) == 200
    assert get(If_Modified_Since="nonsense") == 200
    assert get(If_None_Match='"x"', If_Modified_Since=later) == 200, "the tag decides"
    assert get(If_Match='"x"') == 412
    assert get(If_Match=tag) == 200
    assert get(If_Unmodified_Since=earlier) == 412
    assert get(If_Unmodified_Since=later) == 200
    assert get(If_Match="malformed") == 400
    assert get(If_None_Match=f"{tag} {tag}") == 400


def test_files_do_not_run_in_the_browser(server: Server) -> None:
    server.put("/page.html", b"<script>alert(1)</script>")
    answer = server.request("GET", "/page.html")
    assert answer.headers["content-type"] == "text/html"
    assert answer.headers["content-security-policy"] == "sandbox"
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_page_for_browsers(server: Server) -> None:
    server.request("MKCOL", "/page")
    server.put('/page/<b>&"%3F.txt', b"12345")
    server.request("MKCOL", "/page/folder")
    text = server.request("GET", "/page").text
    assert "&lt;b&gt;&amp;&quot;?.txt" in text
    assert "<b>" not in text
    assert '<a href="/page/%3Cb%3E%26%22%3F.txt">' in text
    assert '<a href="/page/folder/">folder/</a>' in text
    for path in ("/page/folder", "/page/folder/"):
        assert '<a href="/page/">../</a>' in server.request("GET", path).text
    assert '<a href="/">../</a>' in text
    assert "../" not in server.request("GET", "/").text
    assert server.request("HEAD", "/page").body == b""


# PROPFIND


def test_properties_of_a_file(server: Server) -> None:
    tag = server.request("PUT", "/props.txt", b"12345", {"X-OC-Mtime": str(PAST_SECONDS)}).headers["etag"]
    found = properties(propfind(server, "/props.txt"))["/props.txt"]
    texts = {name: element.text for name, element in found.items()}
    assert texts[f"{D}getcontentlength"] == "5"
    assert texts[f"{D}getcontenttype"] == "text/plain"
    assert texts[f"{D}getetag"] == tag
    assert texts[f"{D}getlastmodified"] == PAST
    assert texts[f"{D}displayname"] == "props.txt"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", texts[f"{D}creationdate"] or "")
    assert list(found[f"{D}resourcetype"]) == []
    assert len(found[f"{D}supportedlock"]) == 2


def test_properties_of_a_folder(server: Server) -> None:
    server.request("MKCOL", "/props-folder")
    found = properties(propfind(server, "/props-folder"))["/props-folder/"]
    assert [child.tag for child in found[f"{D}resourcetype"]] == [f"{D}collection"]
    assert f"{D}getcontentlength" not in found
    assert f"{D}getetag" not in found
    assert f"{D}quota-available-bytes" not in found, "RFC 4331: only when asked for"
    assert int(one_property(server, "/props-folder", f"{D}quota-available-bytes") or "") > 0
    assert int(one_property(server, "/props-folder", f"{D}quota-used-bytes") or "") >= 0


def test_propname_include_and_unknown(server: Server) -> None:
    server.put("/propname", b"x")
    names = properties(propfind(server, "/propname", '<D:propfind xmlns:D="DAV:"><D:propname/></D:propfind>'))
    assert f"{D}getetag" in names["/propname"]
    assert names["/propname"][f"{D}getetag"].text is None
    body = (
        '<D:propfind xmlns:D="DAV:"><D:allprop/><D:include><D:quota-used-bytes/></D:include></D:propfind>'
    )
    assert f"{D}quota-used-bytes" in properties(propfind(server, "/", body))["/"]
    body = '<D:propfind xmlns:D="DAV:"><D:prop><x xmlns="urn:a&amp;b"/><y xmlns=""/></D:prop></D:propfind>'
    answer = propfind(server, "/propname", body)
    assert properties(answer) == {"/propname": {}}
    assert b"404 Not Found" in answer.body


@pytest.mark.parametrize("body", ["<D:wrong xmlns:D='DAV:'/>", "<propfind/>", "<D:propfind xmlns:D='DAV:'/>",
                                  "<D:propfind xmlns:D='DAV:'><D:prop/><D:allprop/></D:propfind>"])  # fmt: skip
def test_malformed_propfind(server: Server, body: str) -> None:
    assert propfind(server, "/", body).status == 400


def test_depth(server: Server) -> None:
    server.request("MKCOL", "/listed")
    server.request("MKCOL", "/listed/inner")
    server.put("/listed/inner/deep", b"")
    server.put("/listed/ä b&c", b"x")
    assert set(properties(propfind(server, "/listed", depth="0"))) == {"/listed/"}
    assert set(properties(propfind(server, "/listed/", depth="1"))) == {
        "/listed/", "/listed/inner/", "/listed/%C3%A4%20b%26c",
    }  # fmt: skip
    refused = propfind(server, "/listed", depth="infinity")
    assert refused.status == 403
    assert b"propfind-finite-depth" in refused.body
    assert server.request("PROPFIND", "/listed").status == 403, "without Depth it is infinity"
    assert set(properties(server.request("PROPFIND", "/listed/inner/deep"))) == {"/listed/inner/deep"}
    assert propfind(server, "/listed", depth="2").status == 400
    assert propfind(server, "/nowhere").status == 404


def test_a_large_folder_in_one_answer(server: Server) -> None:
    server.request("MKCOL", "/large")
    with server.connect() as sock:
        # Pipelined, as some clients do it; answers come in order.
        count = 300
        sock.sendall(
            b"".join(
                b"PUT /large/%d HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n" % n for n in range(count)
            )
        )
        answers = bytearray()
        while answers.count(b"201 Created") < count:
            piece = sock.recv(1 << 20)
            assert piece
            answers += piece
    started = time.perf_counter()
    answer = propfind(server, "/large", depth="1")
    assert answer.headers.get("transfer-encoding") == "chunked"
    assert set(properties(answer)) == {"/large/"} | {f"/large/{n}" for n in range(count)}
    assert time.perf_counter() - started < 10
    assert server.request("DELETE", "/large").status == 204


# PROPPATCH and times


def test_dead_properties_stay_with_the_file(server: Server) -> None:
    server.put("/dead", b"1")
    value = '<x:color xmlns:x="urn:me" xml:lang="en">red &amp; <x:deep a="1">green</x:deep></x:color>'
    assert proppatch(server, "/dead", set_property(value)).status == 207

    def color(path: str) -> tuple[str | None, str | None]:
        body = '<D:propfind xmlns:D="DAV:"><D:prop><x:color xmlns:x="urn:me"/></D:prop></D:propfind>'
        found = next(iter(properties(propfind(server, path, body)).values())).get("{urn:me}color")
        return (None, None) if found is None else (found.text, found.findtext("{urn:me}deep"))

    expected = ("red & ", "green")
    assert color("/dead") == expected
    server.put("/dead", b"2")
    assert color("/dead") == expected, "a new content is the same file"
    assert server.request("COPY", "/dead", headers={"Destination": "/dead-copy"}).status == 201
    assert server.request("MOVE", "/dead", headers={"Destination": "/dead-moved"}).status == 201
    assert color("/dead-copy") == color("/dead-moved") == expected
    server.restart()
    assert color("/dead-moved") == expected
    removed = proppatch(
        server, "/dead-moved", '<D:remove><D:prop><x:color xmlns:x="urn:me"/></D:prop></D:remove>'
    )
    assert removed.status == 207
    assert color("/dead-moved") == (None, None)
    server.put("/plain", b"x")
    assert server.request("COPY", "/plain", headers={"Destination": "/dead-copy"}).status == 204
    assert color("/dead-copy") == (None, None), "what was overwritten leaves nothing behind"


def test_proppatch_is_all_or_nothing(server: Server) -> None:
    server.put("/atomic", b"1")
    answer = proppatch(server, "/atomic", set_property("<Z:mine>1</Z:mine><D:getetag>x</D:getetag>"))
    assert answer.status == 207
    assert b"403 Forbidden" in answer.body
    assert b"424 Failed Dependency" in answer.body
    assert b"cannot-modify-protected-property" in answer.body
    assert one_property(server, "/atomic", "{urn:schemas-microsoft-com:}mine") is None
    bad_date = proppatch(server, "/atomic", set_property("<D:getlastmodified>soon</D:getlastmodified>"))
    assert b"409 Conflict" in bad_date.body
    assert proppatch(server, "/atomic", "").status == 400
    assert proppatch(server, "/nowhere", set_property("<a/>")).status == 404
    assert proppatch(server, "/atomic", set_property("<a>" + "x" * 100_000 + "</a>")).status == 507


@pytest.mark.parametrize(
    "change",
    [
        f"<D:getlastmodified>{PAST}</D:getlastmodified>",
        f"<D:lastmodified>{PAST_SECONDS}</D:lastmodified>",
        f"<Z:Win32LastModifiedTime>{PAST}</Z:Win32LastModifiedTime>",
    ],
)
def test_times_can_be_set(server: Server, change: str) -> None:
    tag = server.request("PUT", "/timed", b"1").headers["etag"]
    assert b"200 OK" in proppatch(server, "/timed", set_property(change)).body
    head = server.request("HEAD", "/timed").headers
    assert head["last-modified"] == PAST
    assert head["etag"] == tag, "the content is the same"
    assert one_property(server, "/timed", "{urn:schemas-microsoft-com:}Win32LastModifiedTime") == PAST


def test_what_windows_sets_after_a_copy(server: Server) -> None:
    server.put("/windows", b"1")
    answer = proppatch(
        server,
        "/windows",
        set_property(
            f"<Z:Win32CreationTime>{PAST}</Z:Win32CreationTime>"
            f"<Z:Win32LastAccessTime>{PAST}</Z:Win32LastAccessTime>"
            f"<Z:Win32LastModifiedTime>{PAST}</Z:Win32LastModifiedTime>"
            "<Z:Win32FileAttributes>00000020</Z:Win32FileAttributes>"
        ),
    )
    assert answer.body.count(b"HTTP/1.1 200 OK") == 1
    assert b"HTTP/1.1 4" not in answer.body
    for name, value in (
        ("CreationTime", PAST), ("LastAccessTime", PAST), ("LastModifiedTime", PAST),
        ("FileAttributes", "00000020"),
    ):  # fmt: skip
        assert one_property(server, "/windows", f"{{urn:schemas-microsoft-com:}}Win32{name}") == value


def test_x_oc_mtime(server: Server) -> None:
    answer = server.request("PUT", "/oc", b"1", {"X-OC-Mtime": f"{PAST_SECONDS}.75"})
    assert answer.headers["x-oc-mtime"] == "accepted"
    assert server.request("HEAD", "/oc").headers["last-modified"] == PAST
    assert "x-oc-mtime" not in server.request("PUT", "/oc", b"2").headers
    assert server.request("HEAD", "/oc").headers["last-modified"] != PAST
    for wrong in ("soon", "", "nan", "inf", "1e30"):
        assert server.request("PUT", "/oc", b"3", {"X-OC-Mtime": wrong}).status == 400
    assert server.read("/oc") == b"2"


# PUT, MKCOL, DELETE


def test_put(server: Server) -> None:
    assert server.request("PUT", "/put", b"1").status == 201
    assert server.request("PUT", "/put", b"2").status == 204
    server.request("MKCOL", "/put-folder")
    assert server.request("PUT", "/put-folder", b"x").status == 405
    assert server.request("PUT", "/put-folder/", b"x").status == 405
    assert server.request("PUT", "/", b"x").status == 405
    assert server.request("PUT", "/new/", b"x").status == 409
    assert server.request("PUT", "/missing/x", b"x").status == 409
    assert server.request("PUT", "/put/x", b"x").status == 409
    assert server.request("PUT", "/put", b"x", {"Content-Range": "bytes 0-0/1"}).status == 400
    assert server.request("PUT", "/put", b"x", {"Content-Encoding": "gzip"}).status == 415
    huge = {"Content-Length": str(1 << 60), "Expect": "100-continue"}
    assert server.request("PUT", "/huge", None, huge).status == 507
    assert server.read("/put") == b"2"


def test_mkcol(server: Server) -> None:
    assert server.request("MKCOL", "/made").status == 201
    assert server.request("MKCOL", "/made/").status == 405
    assert server.request("MKCOL", "/").status == 405
    assert server.request("MKCOL", "/made/inner/").status == 201
    assert server.request("MKCOL", "/missing/inner").status == 409
    assert server.request("MKCOL", "/with-body", "<a/>").status == 415
    assert server.request("HEAD", "/with-body").status == 404


def test_delete(server: Server) -> None:
    for path in ("/doomed", "/doomed/a", "/doomed/a/b"):
        assert server.request("MKCOL", path).status == 201
        for n in range(70):
            server.put(f"{path}/file {n}", b"x")
    assert server.request("DELETE", "/doomed", headers={"Depth": "0"}).status == 400
    tag = server.request("HEAD", "/doomed/file 1").headers["etag"]
    assert server.request("DELETE", "/doomed/file 1", headers={"If-Match": '"x"'}).status == 412
    assert server.request("DELETE", "/doomed/file 1", headers={"If-Match": tag}).status == 204
    assert server.request("DELETE", "/doomed/").status == 204
    assert server.request("DELETE", "/doomed").status == 404
    assert server.request("DELETE", "/").status == 403


def test_unknown_methods(server: Server) -> None:
    for method in ("POST", "PATCH", "TRACE", "BREW"):
        answer = server.request(method, "/", b"x")
        assert answer.status == 405
        assert "PROPFIND" in answer.headers["allow"]


def test_options(server: Server) -> None:
    for path in ("/", "/anything"):
        answer = server.request("OPTIONS", path)
        assert answer.status == 200
        assert answer.headers["dav"] == "1, 2"
        assert answer.headers["ms-author-via"] == "DAV"
        assert "LOCK" in answer.headers["allow"]
    star = server.raw(b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert star.startswith(b"HTTP/1.1 200")
    assert server.raw(b"GET * HTTP/1.1\r\nHost: localhost\r\n\r\n").startswith(b"HTTP/1.1 400")


# COPY and MOVE


def make(server: Server, path: str, kind: str) -> None:
    """A file with its path as content, a folder with two levels, or nothing."""
    server.request("DELETE", path)
    if kind == "file":
        server.put(path, path.encode())
    elif kind == "folder":
        server.request("MKCOL", path)
        server.put(f"{path}/member", path.encode())
        server.request("MKCOL", f"{path}/inner")
        server.put(f"{path}/inner/{path[1:]}", b"")


def looks_like(server: Server, path: str, kind: str, made_as: str) -> None:
    if kind == "none":
        assert server.request("HEAD", path).status == 404
    elif kind == "file":
        assert server.read(path) == made_as.encode()
    else:
        assert server.read(f"{path}/member") == made_as.encode()
        assert set(properties(propfind(server, path, depth="1"))) == {
            f"{path}/", f"{path}/member", f"{path}/inner/",
        }  # fmt: skip
        assert set(properties(propfind(server, f"{path}/inner", depth="1"))) == {
            f"{path}/inner/", f"{path}/inner{made_as}",
        }  # fmt: skip


@pytest.mark.parametrize("overwrite", ["T", "F", None])
@pytest.mark.parametrize("target", ["none", "file", "folder"])
@pytest.mark.parametrize("source", ["file", "folder"])
@pytest.mark.parametrize("method", ["COPY", "MOVE"])
def test_copy_and_move(server: Server, method: str, source: str, target: str, overwrite: str | None) -> None:
    make(server, "/from", source)
    make(server, "/to", target)
    headers = {"Destination": f"{server.url}to"}
    if overwrite is not None:
        headers["Overwrite"] = overwrite
    answer = server.request(method, "/from", headers=headers)
    if overwrite == "F" and target != "none":
        assert answer.status == 412
        looks_like(server, "/from", source, "/from")
        looks_like(server, "/to", target, "/to")
        return
    assert answer.status == (201 if target == "none" else 204)
    looks_like(server, "/to", source, "/from")
    looks_like(server, "/from", source if method == "COPY" else "none", "/from")


@pytest.mark.parametrize("method", ["COPY", "MOVE"])
def test_copy_and_move_refused(server: Server, method: str) -> None:
    make(server, "/around", "folder")

    def go(source: str, destination: str | None, **headers: str) -> int:
        if destination is not None:
            headers["Destination"] = destination
        return server.request(method, source, headers=headers).status

    assert go("/around", None) == 400
    assert go("/around", "/around") == 403
    assert go("/around", "/around/inner/x") == 403
    assert go("/around/inner", "/around") == 403
    assert go("/", "/around/root") == 403
    assert go("/missing", "/x") == 404
    assert go("/around/member", "/new/") == 409
    assert go("/around", "/x", Overwrite="maybe") == 400
    assert go("/around", "/x", Depth="1") == 400
    assert server.request(method, "/around/member", headers={"Destination": "/y", "If-Match": '"x"'}).status == 412
    if method == "MOVE":
        assert go("/around", "/x", Depth="0") == 400


# The limits of a door


def test_read_only(start_server: Start) -> None:
    server = start_server(no_auth=True, read_only=True)
    assert server.request("OPTIONS", "/").headers["dav"] == "1"
    assert "PUT" not in server.request("OPTIONS", "/").headers["allow"]
    assert propfind(server, "/").status == 207
    assert server.request("GET", "/").status == 200
    for method in ("PUT", "MKCOL", "DELETE", "COPY", "MOVE", "PROPPATCH", "LOCK", "UNLOCK"):
        assert server.request(method, "/x", headers={"Destination": "/y"}).status == 403, method


def test_root_in_a_folder(start_server: Start) -> None:
    server = start_server(no_auth=True, root="/inside")
    server.put("/file", b"x")
    assert set(properties(propfind(server, "/", depth="1"))) == {"/", "/file"}
    assert server.request("DELETE", "/").status == 403
    assert server.request("HEAD", "/inside").status == 404
    body = lockinfo("exclusive")
    locked = server.request("LOCK", "/file", body)
    assert "<D:lockroot><D:href>/file</D:href></D:lockroot>" in locked.text
    assert server.request("MOVE", "/file", headers={"Destination": "/moved"}).status == 423


def lockinfo(scope: str, owner: str = "<D:owner><D:href>me</D:href></D:owner>") -> str:
    return (
        f'<D:lockinfo xmlns:D="DAV:"><D:lockscope><D:{scope}/></D:lockscope>'
        f"<D:locktype><D:write/></D:locktype>{owner}</D:lockinfo>"
    )
