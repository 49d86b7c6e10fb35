// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Boundary} from "../src/Boundary.sol";
import {Base} from "./Base.sol";

/// The reader of the cluster's blocks beside a plain one, for every input of these lengths.
contract BoundaryChecks is Base {
    function skip(bytes calldata data, uint256 at) external pure returns (uint256) {
        return Boundary.skip(data, at);
    }

    function plainly(bytes calldata data) external pure returns (bool, uint256) {
        return plain(data, 0);
    }

    function uintAt(bytes calldata data, uint256 at) external pure returns (uint64, uint256) {
        return Boundary.uintAt(data, at);
    }

    function record(bytes calldata body) external pure returns (uint64, uint64) {
        return Boundary.record(body);
    }

    function position(bytes calldata h) external pure returns (uint64, uint64, uint64, uint64) {
        return Boundary.position(h);
    }

    function hashes(bytes calldata h) external pure returns (bytes32 parent, bytes32 body) {
        return (Boundary.parentOf(h), Boundary.bodyHashOf(h));
    }

    /// @custom:halmos --array-lengths data={1,2,3} --loop 32 --solver-timeout-branching 0
    function check_an_item_is_skipped_as_the_plain_reader_does(bytes memory data) public view {
        // A byte that is a size leads to a place: each small one is a case of its own, and what is
        // greater lies beyond the end.
        for (uint256 i = 1; i < data.length; ++i) {
            for (uint256 size = 0; size < data.length; ++size) {
                if (uint8(data[i]) == size) data[i] = bytes1(uint8(size));
            }
        }
        (bool good, uint256 end) = this.plainly(data);
        try this.skip(data, 0) returns (uint256 next) {
            assert(good && next == end && next <= data.length);
        } catch {
            assert(!good);
        }
    }

    /// @custom:halmos --array-lengths data={0,1,2,3,5,9,10}
    function check_a_number_is_read_whole_or_not_at_all(bytes calldata data) public view {
        try this.uintAt(data, 0) returns (uint64 value, uint256 next) {
            assert(next <= data.length);
            uint256 tag = uint8(data[0]);
            uint256 size = tag < 0x80 ? 0 : tag == 0xcc ? 1 : tag == 0xcd ? 2 : tag == 0xce ? 4 : 8;
            assert(next == 1 + size && (size < 8 || tag == 0xcf));
            uint256 want = size == 0 ? tag : 0;
            for (uint256 i = 0; i < size; ++i) {
                want = want << 8 | uint8(data[1 + i]);
            }
            assert(value == want);
        } catch {
            uint256 tag = data.length == 0 ? 0xc0 : uint8(data[0]);
            bool cut = tag == 0xcc
                ? data.length < 2
                : tag == 0xcd ? data.length < 3 : tag == 0xce ? data.length < 5 : data.length < 9;
            assert(tag >= 0x80 && (tag < 0xcc || tag > 0xcf || cut));
        }
    }

    function check_the_record_says_what_was_written(uint64 epoch, uint64 chainBlock, bytes32 hash)
        public
        view
    {
        bytes memory body =
            abi.encodePacked(hex"9490909096", number(epoch), number(chainBlock), hex"c420", hash);
        try this.record(body) returns (uint64 haveEpoch, uint64 haveBlock) {
            assert(haveEpoch == epoch && haveBlock == chainBlock);
        } catch {
            assert(false);
        }
    }

    function check_a_header_is_taken_apart_where_it_was_put_together(
        uint64 epoch,
        uint64 term,
        uint64 index,
        uint64 proposer,
        bytes32 parent,
        bytes32 body,
        uint64 other,
        bytes32 state
    ) public view {
        bytes memory h = abi.encodePacked(
            epoch, term, index, proposer, other, parent, other, body, other, state
        );
        assert(h.length == Boundary.HEADER_BYTES);
        (uint64 e, uint64 t, uint64 i, uint64 p) = this.position(h);
        assert(e == epoch && t == term && i == index && p == proposer);
        (bytes32 haveParent, bytes32 haveBody) = this.hashes(h);
        assert(haveParent == parent && haveBody == body);
    }

    function number(uint64 value) private pure returns (bytes memory) {
        if (value < 128) return abi.encodePacked(uint8(value));
        if (value < 256) return abi.encodePacked(hex"cc", uint8(value));
        if (value < 65_536) return abi.encodePacked(hex"cd", uint16(value));
        if (value < 1 << 32) return abi.encodePacked(hex"ce", uint32(value));
        return abi.encodePacked(hex"cf", value);
    }

    /// One item and what is in it, each inside the data; written to be read and not to be cheap.
    function plain(bytes calldata data, uint256 at) private pure returns (bool, uint256) {
        if (at >= data.length) return (false, 0);
        uint256 tag = uint8(data[at]);
        uint256 rest = data.length - at - 1;
        if (tag <= 0x7f || tag == 0xc0) return (true, at + 1);
        uint256 items = 0;
        if (tag >= 0x90 && tag <= 0x9f) {
            items = tag - 0x90;
            at += 1;
        } else if (tag == 0xdc) {
            if (rest < 2) return (false, 0);
            items = uint256(uint8(data[at + 1])) * 256 + uint8(data[at + 2]);
            at += 3;
        } else {
            uint256 size;
            if (tag == 0xc4) {
                if (rest < 1) return (false, 0);
                size = 1 + uint8(data[at + 1]);
            } else if (tag == 0xc5) {
                if (rest < 2) return (false, 0);
                size = 2 + uint256(uint8(data[at + 1])) * 256 + uint8(data[at + 2]);
            } else if (tag >= 0xcc && tag <= 0xcf) {
                size = tag == 0xcc ? 1 : tag == 0xcd ? 2 : tag == 0xce ? 4 : 8;
            } else {
                return (false, 0);
            }
            return rest < size ? (false, 0) : (true, at + 1 + size);
        }
        // each item is a byte at least
        if (items > data.length - at) return (false, 0);
        for (uint256 i = 0; i < items; ++i) {
            bool good;
            (good, at) = plain(data, at);
            if (!good) return (false, 0);
        }
        return (true, at);
    }
}
