// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {ICertificates} from "../src/ICertificates.sol";
import {Fixture} from "./Fixture.sol";

/// A launched registry with `n` nodes of weight one each, and its cluster's votes, headers and bodies,
/// rebuilt from the protocol's own description and not from `src`.
abstract contract CourtFixture is Fixture {
    uint8 internal constant NOTARIZE = 1;
    uint8 internal constant NULLIFY = 2;
    uint8 internal constant FINALIZE = 3;
    uint8 internal constant NO_PROPOSAL = 1;
    uint8 internal constant STEP_DOWN = 10;
    uint8 internal constant JOINED = 11;
    bytes32 internal constant B1 = keccak256("one block");
    bytes32 internal constant B2 = keccak256("another block");

    ICertificates internal court;

    struct Head {
        uint64 epoch;
        uint64 term;
        uint64 index;
        uint64 proposer;
        bytes32 parent;
        bytes32 bodyHash;
    }

    function crowd(uint256 n, bool launched) internal {
        if (n > SEATS_MAX) {
            reg = deployWith(OWNER, GUARDIAN, vm.addr(ROOT_SECRET), uint32(n), LEASE);
            certify(reg, APP, appWallet, ROOT_SECRET, 1);
            vm.prank(OWNER);
            reg.allowApp(APP, true);
        }
        court = ICertificates(reg.certificates());
        for (uint256 i = 1; i <= n; ++i) {
            grant(wallet(i), 1);
            enlist(i, wallet(i), secret(i), instance(i), 1);
        }
        if (!launched) return;
        launch();
        vm.roll(block.number + 1);
    }

    function suspending() internal {
        policy(ICertificates.Effect.SUSPEND);
    }

    /// The same for deposed leaders and for liars.
    function policy(ICertificates.Effect effect) internal {
        vm.prank(OWNER);
        court.setPolicy(ICertificates.Policy(effect, effect, 1 days, type(uint40).max, 3));
    }

    function wallet(uint256 seat) internal pure returns (address) {
        return address(uint160(0x20000 + seat));
    }

    function secret(uint256 seat) internal pure returns (uint256) {
        return 0x30000 + seat;
    }

    function instance(uint256 seat) internal pure returns (bytes20) {
        return bytes20(uint160(0x40000 + seat));
    }

    function quorum(uint256 n) internal pure returns (uint256) {
        return 2 * n / 3 + 1;
    }

    // ---------------------------------------------------------------- votes

    function voteHash(uint8 kind, uint64 epoch, uint64 term, uint64 index, bytes32 last)
        internal
        view
        returns (bytes32)
    {
        bytes32 typeHash = keccak256(
            kind == NOTARIZE
                ? bytes("Notarize(uint64 epoch,uint64 term,uint64 index,bytes32 blockHash)")
                : kind == FINALIZE
                    ? bytes("Finalize(uint64 epoch,uint64 term,uint64 index,bytes32 blockHash)")
                    : bytes("Nullify(uint64 epoch,uint64 term,uint64 index,uint8 reason)")
        );
        return typedHash(reg, abi.encode(typeHash, epoch, term, index, last));
    }

    function compact(uint256 key, bytes32 hash) internal pure returns (bytes32 r, bytes32 vs) {
        uint8 v;
        bytes32 s;
        (v, r, s) = vm.sign(key, hash);
        vs = v == 28 ? bytes32(uint256(s) | (1 << 255)) : s;
    }

    function part(uint256 seat, uint8 reason, bytes32 hash) internal pure returns (bytes memory) {
        (bytes32 r, bytes32 vs) = compact(secret(seat), hash);
        return abi.encodePacked(uint32(seat), reason, r, vs);
    }

    function vote(
        uint256 seat,
        uint8 kind,
        uint64 epoch,
        uint64 term,
        uint64 index,
        bytes32 blockHash
    ) internal view returns (ICertificates.Vote memory v) {
        uint8 reason = kind == NULLIFY ? NO_PROPOSAL : 0;
        bytes32 last = kind == NULLIFY ? bytes32(uint256(reason)) : blockHash;
        (bytes32 r, bytes32 vs) = compact(secret(seat), voteHash(kind, epoch, term, index, last));
        return ICertificates.Vote(kind, epoch, term, index, blockHash, reason, r, vs);
    }

    function finalization(Head memory h, uint256 first, uint256 last)
        internal
        view
        returns (bytes memory parts)
    {
        bytes32 hash = voteHash(FINALIZE, h.epoch, h.term, h.index, hashOf(h));
        for (uint256 seat = first; seat <= last; ++seat) {
            parts = bytes.concat(parts, part(seat, 0, hash));
        }
    }

    function nullification(
        uint64 epoch,
        uint64 term,
        uint64 index,
        uint256 first,
        uint256 last,
        uint8 reason
    ) internal view returns (bytes memory parts) {
        bytes32 hash = voteHash(NULLIFY, epoch, term, index, bytes32(uint256(reason)));
        for (uint256 seat = first; seat <= last; ++seat) {
            parts = bytes.concat(parts, part(seat, reason, hash));
        }
    }

    // --------------------------------------------------------------- blocks

    function head(uint64 epoch, uint64 term, uint64 index, uint64 proposer)
        internal
        pure
        returns (Head memory h)
    {
        h = Head(epoch, term, index, proposer, keccak256("parent"), keccak256("body"));
    }

    function encode(Head memory h) internal pure returns (bytes memory) {
        return abi.encodePacked(
            h.epoch,
            h.term,
            h.index,
            h.proposer,
            uint64(77), // height
            h.parent,
            uint64(1_800_000_000_000),
            h.bodyHash,
            uint64(70),
            keccak256("state")
        );
    }

    function hashOf(Head memory h) internal view returns (bytes32) {
        bytes memory tag = "dstack-cluster/block/v2";
        return keccak256(bytes.concat(tag, reg.domainSeparator(), encode(h)));
    }

    function number(uint256 value) internal pure returns (bytes memory) {
        if (value < 128) return abi.encodePacked(uint8(value));
        if (value < 256) return abi.encodePacked(hex"cc", uint8(value));
        if (value < 65_536) return abi.encodePacked(hex"cd", uint16(value));
        if (value < 1 << 32) return abi.encodePacked(hex"ce", uint32(value));
        return abi.encodePacked(hex"cf", uint64(value));
    }

    /// The body of a boundary block, with `members` made-up members in its record.
    function bodyOf(bytes memory nullifications, uint64 epoch, uint64 chainBlock, uint256 members)
        internal
        pure
        returns (bytes memory)
    {
        bytes memory hash = bytes.concat(hex"c420", keccak256("some hash"));
        bytes memory rows;
        for (uint256 i = 1; i <= members; ++i) {
            rows = bytes.concat(rows, hex"93", number(i), number(1), hex"c42102", keccak256(rows));
        }
        return bytes.concat(
            hex"9490",
            nullifications,
            hex"9096",
            number(epoch),
            number(chainBlock),
            hash,
            hash,
            hash,
            bytes.concat(hex"dc", abi.encodePacked(uint16(members)), rows)
        );
    }

    function bodyHashOf(bytes memory body) internal pure returns (bytes32) {
        return keccak256(bytes.concat("dstack-cluster/body/v2", body));
    }
}
