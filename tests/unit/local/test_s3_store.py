from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path

import pytest

from airflow_emr_etl.local.s3.errors import S3Error
from airflow_emr_etl.local.s3.metadata import Attributes
from airflow_emr_etl.local.s3.store import MIN_PART_BYTES, ObjectStore, Precondition


@pytest.fixture
def store(tmp_path):
    store = ObjectStore(tmp_path)
    store.create_bucket("lake", "us-east-1")
    yield store
    store.close()


def put(store, key, data=b"x", attributes=None, **options):
    with store.stage() as staged:
        staged.write(data)
        return store.commit("lake", key, staged, attributes or Attributes(), **options)


def read(store, key):
    _, file = store.open("lake", key)
    with file:
        return file.read()


def keys(store, **options):
    listing = store.list_objects("lake", **options)
    return [stored.key for stored in listing.objects] + listing.prefixes


def test_an_object_is_a_file_at_its_key(store, tmp_path):
    stored = put(store, "a/b.txt", b"hello")
    assert (tmp_path / "s3/lake/a/b.txt").read_bytes() == b"hello"
    assert stored.etag == hashlib.md5(b"hello").hexdigest()
    assert read(store, "a/b.txt") == b"hello"
    assert list((tmp_path / "s3-staging").iterdir()) == []


def test_a_file_of_another_process_is_an_object(store, tmp_path):
    (tmp_path / "s3/lake/dt=1").mkdir()
    (tmp_path / "s3/lake/dt=1/part").write_bytes(b"spark")
    stored = store.head("lake", "dt=1/part")
    assert (stored.size, stored.etag[-2:]) == (5, "-1")
    assert keys(store) == ["dt=1/part"]


def test_metadata_ends_with_the_file_that_it_was_written_for(store, tmp_path):
    put(store, "a", b"one", Attributes(metadata={"by": "api"}))
    (tmp_path / "s3/lake/a").write_bytes(b"two, from outside")
    stored = store.head("lake", "a")
    assert stored.attributes == Attributes()
    assert stored.etag.endswith("-1")


def test_metadata_survives_a_restart(tmp_path):
    store = ObjectStore(tmp_path)
    store.create_bucket("lake", "eu-west-1")
    before = put(store, "a", b"one", Attributes(metadata={"by": "api"}, tags={"k": "v"}))
    store.close()
    again = ObjectStore(tmp_path)
    assert again.head("lake", "a") == before
    assert [(bucket.name, bucket.region) for bucket in again.buckets()] == [("lake", "eu-west-1")]
    again.close()


def test_what_was_being_written_at_a_crash_is_cleared(tmp_path):
    (tmp_path / "s3-staging").mkdir()
    (tmp_path / "s3-staging" / "half").write_bytes(b"...")
    ObjectStore(tmp_path).close()
    assert list((tmp_path / "s3-staging").iterdir()) == []


def test_a_delete_leaves_no_empty_folder(store, tmp_path):
    put(store, "a/b/c")
    put(store, "a/d")
    store.delete("lake", "a/b/c")
    assert not (tmp_path / "s3/lake/a/b").exists()
    store.delete("lake", "a/d")
    assert list((tmp_path / "s3/lake").iterdir()) == []
    store.delete("lake", "a/d")  # as on AWS, no error


def test_deleting_a_folder_s_name_deletes_nothing(store):
    put(store, "a/b")
    store.delete("lake", "a")
    assert keys(store) == ["a/b"]


def test_an_object_cannot_also_be_a_folder(store):
    put(store, "a")
    with pytest.raises(S3Error, match="both an object and a folder"):
        put(store, "a/b")
    put(store, "x/y")
    with pytest.raises(S3Error, match="both an object and a folder"):
        put(store, "x")
    with pytest.raises(S3Error, match="both an object and a folder"):
        put(store, "a/", b"")


def test_an_empty_folder_gives_way(store, tmp_path):
    (tmp_path / "s3/lake/out").mkdir()
    put(store, "out")
    assert read(store, "out") == b"x"


def test_folder_markers(store, tmp_path):
    put(store, "dir/", b"")
    assert (tmp_path / "s3/lake/dir").is_dir()
    assert store.head("lake", "dir/").size == 0
    assert store.head("lake", "dir") is None
    put(store, "dir/a")
    assert keys(store) == ["dir/", "dir/a"]
    assert keys(store, prefix="dir/") == ["dir/", "dir/a"]
    assert keys(store, prefix="dir/", delimiter="/") == ["dir/", "dir/a"]
    assert keys(store, delimiter="/") == ["dir/"]
    store.delete("lake", "dir/a")
    assert keys(store) == ["dir/"], "the marker keeps the folder"
    store.delete("lake", "dir/")
    assert not (tmp_path / "s3/lake/dir").exists()
    with pytest.raises(S3Error, match="must be empty"):
        put(store, "dir/", b"data")


def test_a_marker_goes_with_the_folder_that_another_process_removes(store, tmp_path):
    put(store, "dir/", b"")
    (tmp_path / "s3/lake/dir").rmdir()
    assert store.head("lake", "dir/") is None
    assert keys(store) == []


def test_scaffolding_of_spark_is_hidden(store, tmp_path):
    for name in ("out/_temporary/0/part", "out/.spark-staging-1/p", "out/.part.crc", "out/.local-aws-1"):
        path = tmp_path / "s3/lake" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    assert keys(store) == []
    assert keys(store, delimiter="/") == [], "a folder without objects is no common prefix"
    (tmp_path / "s3/lake/out/part").write_bytes(b"x")
    assert keys(store) == ["out/part"]


def test_names_that_are_no_utf8_are_left_out(store, tmp_path):
    name = os.fsencode(tmp_path / "s3/lake") + b"/\xff"
    os.close(os.open(name, os.O_CREAT | os.O_WRONLY))
    put(store, "a")
    assert keys(store) == ["a"]


ORDERED = ["a", "a!/x", "a-b", "a.b", "a/b", "a/c/d", "a0", "b/é", "b/z", "ü", "\U0001f600/x"]
ORDERED.sort(key=str.encode)
ORDERED = [key for key in ORDERED if key != "a"]


@pytest.mark.parametrize("page", [1, 2, 3, 100])
@pytest.mark.parametrize("delimiter", ["", "/", "-"])
@pytest.mark.parametrize("prefix", ["", "a", "a/", "b/", "none", "a/c/d"])
def test_listings_in_pages_are_what_s3_s_rules_say(store, page, delimiter, prefix):
    for key in reversed(ORDERED):
        put(store, key)
    expected_keys, expected_prefixes = [], []
    for key in ORDERED:
        if key.startswith(prefix):
            end = key.find(delimiter, len(prefix)) if delimiter else -1
            if end < 0:
                expected_keys.append(key)
            elif key[: end + 1] not in expected_prefixes:
                expected_prefixes.append(key[: end + 1])
    found_keys, found_prefixes = [], []
    after, is_prefix = "", False
    for _ in range(50):
        listing = store.list_objects(
            "lake",
            prefix=prefix,
            delimiter=delimiter,
            after=after,
            after_prefix=after if is_prefix else "",
            max_keys=page,
        )
        assert len(listing.objects) + len(listing.prefixes) <= page
        found_keys += [stored.key for stored in listing.objects]
        found_prefixes += listing.prefixes
        if listing.next_after is None:
            break
        after, is_prefix = listing.next_after, listing.next_is_prefix
    else:
        pytest.fail("the listing does not end")
    assert (found_keys, found_prefixes) == (expected_keys, expected_prefixes)


@pytest.mark.parametrize("after", ["", "a-b", "a/b", "a/c", "a/zzz", "b/é", "zzz", "\U0010ffff"])
def test_start_after(store, after):
    for key in ORDERED:
        put(store, key)
    assert keys(store, after=after) == [key for key in ORDERED if key > after]


def test_no_keys_asked_for(store):
    put(store, "a")
    listing = store.list_objects("lake", max_keys=0)
    assert (listing.objects, listing.next_after) == ([], None)


@pytest.mark.parametrize("prefix", ["../", "a/../", "/", "a//b", "\0"])
def test_a_prefix_cannot_leave_the_bucket(store, tmp_path, prefix):
    (tmp_path / "s3/other").mkdir()
    (tmp_path / "s3/other/secret").write_bytes(b"x")
    assert keys(store, prefix=prefix) == []


def test_only_one_of_many_creates(store):
    won, refused = [], []
    barrier = threading.Barrier(8)

    def create(number):
        barrier.wait()
        try:
            put(store, "once", str(number).encode(), precondition=Precondition(if_none_match=True))
            won.append(number)
        except S3Error as error:
            refused.append(error.code)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert refused == ["PreconditionFailed"] * 7
    assert read(store, "once") == str(won[0]).encode()


def test_only_one_of_many_replaces_what_it_read(store):
    etag = put(store, "counter", b"0").etag
    won, refused = [], []
    barrier = threading.Barrier(6)

    def replace(number):
        barrier.wait()
        try:
            put(store, "counter", f"by {number}".encode(), precondition=Precondition(if_match=etag))
            won.append(number)
        except S3Error as error:
            refused.append(error.code)

    threads = [threading.Thread(target=replace, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert refused == ["PreconditionFailed"] * 5
    assert read(store, "counter") == f"by {won[0]}".encode()


def test_if_match_of_what_is_not_there(store):
    with pytest.raises(S3Error) as caught:
        put(store, "a", precondition=Precondition(if_match="abc"))
    assert caught.value.code == "NoSuchKey"
    etag = put(store, "a").etag
    with pytest.raises(S3Error):
        store.delete("lake", "a", if_match="abc")
    store.delete("lake", "a", if_match=etag)
    assert keys(store) == []


def test_writers_and_deleters_of_neighbours_do_not_disturb_each_other(store):
    """A delete prunes the folder that the next write is about to use."""
    failures = []

    def work(number):
        try:
            for _ in range(40):
                put(store, f"dir/deep/{number}")
                store.delete("lake", f"dir/deep/{number}")
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert keys(store) == []


def test_a_reader_keeps_what_it_opened(store):
    put(store, "a", b"old")
    _, file = store.open("lake", "a")
    put(store, "a", b"new")
    with file:
        assert file.read() == b"old"


def upload_part(store, upload, number, data):
    with store.stage() as staged:
        staged.write(data)
        return store.put_part(upload, number, staged, {})


def test_multipart_upload(store, tmp_path):
    upload = store.create_upload("lake", "big", Attributes(headers={"content-type": "text/plain"}))
    first, last = os.urandom(MIN_PART_BYTES), b"tail"
    parts = [upload_part(store, upload, 3, first), upload_part(store, upload, 7, last)]
    assert store.head("lake", "big") is None
    stored = store.complete_upload(upload, [(p.number, p.etag) for p in parts], Precondition())
    joined = hashlib.md5(hashlib.md5(first).digest() + hashlib.md5(last).digest()).hexdigest()
    assert stored.etag == f"{joined}-2"
    assert read(store, "big") == first + last
    assert store.uploads("lake") == []
    assert list((tmp_path / "s3-uploads").iterdir()) == []
    assert store.head("lake", "big").attributes.parts == (MIN_PART_BYTES, 4)


def test_a_multipart_upload_survives_a_restart(tmp_path):
    store = ObjectStore(tmp_path)
    store.create_bucket("lake", "us-east-1")
    upload = store.create_upload("lake", "big", Attributes())
    part = upload_part(store, upload, 1, b"data")
    store.close()
    again = ObjectStore(tmp_path)
    assert [found.id for found in again.uploads("lake")] == [upload.id]
    found = again.upload(upload.id, "lake", "big")
    again.complete_upload(found, [(1, part.etag)], Precondition())
    assert read(again, "big") == b"data"
    again.close()


def test_what_a_multipart_upload_refuses(store):
    upload = store.create_upload("lake", "big", Attributes())
    small, last = upload_part(store, upload, 1, b"small"), upload_part(store, upload, 2, b"last")
    for wanted, code in [
        ([(1, small.etag), (2, last.etag)], "EntityTooSmall"),
        ([(2, last.etag), (1, small.etag)], "InvalidPartOrder"),
        ([(1, last.etag)], "InvalidPart"),
        ([(9, last.etag)], "InvalidPart"),
        ([], "MalformedXML"),
    ]:
        with pytest.raises(S3Error) as caught:
            store.complete_upload(upload, wanted, Precondition())
        assert caught.value.code == code
    for upload_id, key in [("nonsense", "big"), ("../lake", "big"), (upload.id, "other")]:
        with pytest.raises(S3Error) as caught:
            store.upload(upload_id, "lake", key)
        assert caught.value.code == "NoSuchUpload"
    store.abort_upload(upload)
    assert store.uploads("lake") == []


def test_buckets(store, tmp_path):
    assert not store.create_bucket("lake", "us-east-1")
    with pytest.raises(S3Error) as caught:
        store.create_bucket("No", "us-east-1")
    assert caught.value.code == "InvalidBucketName"
    (tmp_path / "s3" / "made-by-spark").mkdir()
    (tmp_path / "s3" / "Not_A_Bucket").mkdir()
    assert [bucket.name for bucket in store.buckets()] == ["lake", "made-by-spark"]
    put(store, "a")
    with pytest.raises(S3Error) as caught:
        store.delete_bucket("lake")
    assert caught.value.code == "BucketNotEmpty"
    store.delete("lake", "a")
    (tmp_path / "s3/lake/empty/_temporary").mkdir(parents=True)
    store.delete_bucket("lake")
    with pytest.raises(S3Error) as caught:
        store.list_objects("lake")
    assert caught.value.code == "NoSuchBucket"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_full_disk_is_told_and_leaves_nothing(store, tmp_path, monkeypatch):
    with store.stage() as staged:
        full = Path("/dev/full").open("wb")  # noqa: SIM115 (Staged closes it)
        staged._file.close()
        monkeypatch.setattr(staged, "_file", full)
        staged.write(b"x")
        with pytest.raises(OSError, match="No space left"):
            store.commit("lake", "a", staged, Attributes())
    assert list((tmp_path / "s3-staging").iterdir()) == []
    assert store.head("lake", "a") is None
