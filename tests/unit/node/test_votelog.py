"""The vote log gives back what was synced, whatever a crash left behind it, and nothing damaged."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from node import votelog
from node.votelog import NAMES, Entry, VoteLog, VoteLogError

ID = bytes(range(32))


def reopened(directory: Path, generation_min: int = 1) -> list[Entry]:
    log = VoteLog(directory, ID, generation_min)
    log.close()
    return log.entries


def filled(directory: Path, frames: int) -> VoteLog:
    """A log with two entries in each frame."""
    log = VoteLog(directory, ID, 0)
    for number in range(frames):
        log.append(1, b"vote %d" % number)
        log.append(2, b"")
        log.sync()
    return log


def expected(frames: int) -> list[Entry]:
    return [e for number in range(frames) for e in ((1, b"vote %d" % number), (2, b""))]


def test_what_was_synced_is_there_again_and_nothing_else(tmp_path: Path) -> None:
    log = filled(tmp_path, 3)
    log.append(1, b"never synced")
    log.close()
    assert reopened(tmp_path) == expected(3)


def test_a_frame_torn_at_any_byte_is_dropped_and_written_over(tmp_path: Path) -> None:
    log = filled(tmp_path, 2)
    before = log.size
    log.append(1, b"torn")
    log.sync()
    log.close()
    whole = (tmp_path / NAMES[0]).read_bytes()
    for kept in range(before, log.size):
        (tmp_path / NAMES[0]).write_bytes(whole[:kept] + bytes(len(whole) - kept))
        again = VoteLog(tmp_path, ID, 1)
        assert again.entries == expected(2)
        again.append(3, b"after")
        again.sync()
        again.close()
        assert reopened(tmp_path) == [*expected(2), (3, b"after")]


def test_a_whole_frame_behind_a_damaged_one_means_lost_votes(tmp_path: Path) -> None:
    log = filled(tmp_path, 5)
    log.close()
    path = tmp_path / NAMES[0]
    data = bytearray(path.read_bytes())
    data[data.index(b"vote 2")] ^= 1
    path.write_bytes(data)
    with pytest.raises(VoteLogError, match="damaged"):
        VoteLog(tmp_path, ID, 1)


@pytest.mark.parametrize("lost", [(2, 3), (2, 5), (2, 9)])
def test_frames_that_the_disk_lost_as_if_never_written_mean_lost_votes(
    tmp_path: Path, lost: tuple[int, int]
) -> None:
    filled(tmp_path, 10).close()
    path = tmp_path / NAMES[0]
    data = bytearray(path.read_bytes())
    begin, end = (data.index(b"vote %d" % number) - 17 for number in lost)  # heads of the frames
    data[begin:end] = bytes(end - begin)
    path.write_bytes(data)
    with pytest.raises(VoteLogError, match=f"damaged behind byte {begin}"):
        VoteLog(tmp_path, ID, 1)


def test_a_frame_whose_sync_failed_is_written_again_before_it_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux marks pages that could not be written as clean; the next sync does without them."""
    plain_write, disk, dirty = os.pwrite, bytearray(1 << 20), []
    refuse = False

    def write(fd: int, data: bytes, offset: int) -> int:
        dirty.append((offset, bytes(data)))
        return plain_write(fd, data, offset)

    def sync(_: int) -> None:
        written, dirty[:] = dirty[:], []
        if refuse:
            raise OSError(5, "Input/output error")
        for offset, data in written:
            disk[offset : offset + len(data)] = data

    monkeypatch.setattr(os, "pwrite", write)
    monkeypatch.setattr(os, "fdatasync", sync)
    log = filled(tmp_path, 2)
    refuse = True
    log.append(1, b"vote 2")
    log.append(2, b"")
    with pytest.raises(VoteLogError, match="Input/output"):
        log.sync()
    log.close()
    refuse = False
    assert reopened(tmp_path) == expected(3)
    (tmp_path / NAMES[0]).write_bytes(disk)  # the power fails
    assert reopened(tmp_path) == expected(3)


def test_a_rewrite_keeps_what_it_is_given_and_the_old_file_is_used_again(tmp_path: Path) -> None:
    log = filled(tmp_path, 9)
    for generation in range(2, 7):
        log.rewrite([(1, b"kept %d" % generation)])
        assert log.generation == generation
        log.append(2, b"new")
        log.sync()
        assert reopened(tmp_path) == [(1, b"kept %d" % generation), (2, b"new")]
    log.close()


def test_many_small_entries_outgrow_what_is_needed_as_large_ones_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(votelog, "ENTRIES_MAX", 10)
    monkeypatch.setattr(votelog, "BYTES_MAX", 10_000)
    log = filled(tmp_path, 5)
    assert not log.outgrows(())
    log.append(1, b"one more")
    assert log.outgrows(()) and not log.outgrows([(1, b"one more")])
    log.sync()
    log.close()
    log = VoteLog(tmp_path, ID, 1)
    assert log.outgrows(())
    log.rewrite([(1, b"kept")])
    assert not log.outgrows(())
    log.append(2, bytes(20_000))
    log.sync()
    assert log.outgrows(()) and not log.outgrows([(2, bytes(20_000))])
    log.close()


def test_a_crash_within_a_rewrite_leaves_the_old_log(tmp_path: Path) -> None:
    log = filled(tmp_path, 4)
    log.rewrite([(1, b"kept")])
    log.close()
    other = tmp_path / NAMES[1]
    whole = other.read_bytes()
    for kept in (0, 1, 12, 40, log.size - 1):
        other.write_bytes(whole[:kept] + bytes(len(whole) - kept))
        assert reopened(tmp_path) == expected(4)


def test_frames_of_an_earlier_use_of_the_file_are_not_taken_for_new_ones(tmp_path: Path) -> None:
    log = VoteLog(tmp_path, ID, 0)
    for number in range(20):
        log.append(1, b"%4d" % number)
        log.sync()
    log.rewrite(())
    log.rewrite(())  # in the first file again, over frames of equal size
    log.append(1, b"1234")
    log.sync()
    log.close()
    assert reopened(tmp_path) == [(1, b"1234")]


def test_a_log_that_is_missing_or_old_is_refused(tmp_path: Path) -> None:
    log = filled(tmp_path, 1)
    log.rewrite(())
    log.close()
    os.unlink(tmp_path / NAMES[1])
    with pytest.raises(VoteLogError, match="generation 2 is missing, the newest one found is 1"):
        VoteLog(tmp_path, ID, 2)
    with pytest.raises(VoteLogError, match="another node"):
        VoteLog(tmp_path, bytes(32), 1)


def test_large_entries_grow_the_file(tmp_path: Path) -> None:
    log = VoteLog(tmp_path, ID, 0)
    entries = [(2, os.urandom(300_000)) for _ in range(4)]
    for entry in entries:
        log.append(*entry)
        log.sync()
    log.close()
    assert reopened(tmp_path) == entries
