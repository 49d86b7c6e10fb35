// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {FlawedMembership} from "./FlawedMembership.sol";

/// @title The rules by which a still older contract elected and deposed leaders, behind the calls of
///        ours (O1 to O7 and O9). Never deployed.
/// @notice Votes are checked as they should be, and counted as they should not.
contract FlawedElection is FlawedMembership {
    uint256 private constant HEADER_BYTES = 152;
    uint256 private constant PART_BYTES = 69;

    struct Vote {
        uint64 epoch;
        uint64 term;
        uint64 index;
    }

    uint256 private _leader;
    Vote private _led;
    mapping(uint256 accused => uint256) private _count;
    mapping(uint256 voter => mapping(uint256 accused => bool)) private _voted;
    mapping(uint256 seat => Vote) private _deposed;

    constructor(address owner_, address guardian, address root, uint32 cap, uint40 lease, uint40 delay)
        FlawedMembership(owner_, guardian, root, cap, lease, delay)
    {}

    /// O2: a proof is looked at if there is one. O9: every registration walks over all members.
    function register(
        Registration calldata r,
        bytes calldata appSignature,
        bytes calldata nodeSignature,
        bytes calldata ownerSignature
    ) public override {
        _active();
        if (appSignature.length == 0) seat(r);
        else super.register(r, appSignature, nodeSignature, ownerSignature);
    }

    /// O1: the seat goes, the seller's standing stays with him.
    function transferFrom(address from, address to, uint256 seat_) public override {
        require(msg.sender == from && ownerOf[seat_] == from, "not the owner's");
        ownerOf[seat_] = to;
    }

    function voteRecovery(uint256 seat_, uint64, uint64, bytes32) external view {
        require(seatOf[msg.sender] == seat_, "not a member"); // O1
    }

    function launch(bytes32) external {}

    function setLease(uint40) external {}

    /// O7: whoever is named first while nobody leads.
    function recordLeader(bytes calldata header, bytes calldata) external {
        require(_leader == 0, "there is a leader");
        (_leader, _led) = _proposer(header);
    }

    /// O3: a vote counts against its seat in whatever term. O4: what was counted stays counted. O6: half of
    /// those who are there now.
    function depose(
        uint64 epoch,
        uint64 term,
        uint64 index,
        bytes calldata parts,
        bytes calldata header,
        bytes32,
        bytes32
    ) external {
        uint256 accused = _leader;
        if (header.length != 0) (accused,) = _proposer(header);
        for (uint256 at = 0; at < parts.length; at += PART_BYTES) {
            uint256 voter = _voter(epoch, term, index, parts[at:at + PART_BYTES]);
            if (_voted[voter][accused]) continue;
            _voted[voter][accused] = true;
            ++_count[accused];
        }
        if (accused != _leader || _count[accused] <= _active() / 2) return;
        (_deposed[accused], _leader) = (Vote(epoch, term, index), 0);
    }

    function leader() external view returns (uint64, uint64, uint64, uint32, bytes32) {
        return (_led.epoch, _led.term, _led.index, uint32(_leader), 0);
    }

    function lastDeposed(uint256 seat_) external view returns (uint64, uint64) {
        return (_deposed[seat_].epoch, _deposed[seat_].term);
    }

    function certificates() external view returns (address) {
        return address(this);
    }

    function _active() private view returns (uint256 count) {
        for (uint256 i = 1; i <= seatCount; ++i) {
            if (nodes[instanceOf[i]].status == 1) ++count;
        }
    }

    function _proposer(bytes calldata header) private pure returns (uint256, Vote memory) {
        require(header.length == HEADER_BYTES, "no header");
        uint256 word = uint256(bytes32(header));
        return (uint64(word), Vote(uint64(word >> 192), uint64(word >> 128), uint64(word >> 64)));
    }

    function _voter(uint64 epoch, uint64 term, uint64 index, bytes calldata part)
        private
        view
        returns (uint256 voter)
    {
        voter = uint32(bytes4(part));
        bytes32 kind = keccak256("Nullify(uint64 epoch,uint64 term,uint64 index,uint8 reason)");
        bytes32 structure = keccak256(abi.encode(kind, epoch, term, index, uint8(part[4])));
        bytes32 vs = bytes32(part[37:]);
        address signer = ecrecover(
            keccak256(abi.encodePacked(hex"1901", _domain(), structure)),
            uint8(27 + (uint256(vs) >> 255)),
            bytes32(part[5:37]),
            bytes32(uint256(vs) & (type(uint256).max >> 1))
        );
        Node storage n = nodes[instanceOf[voter]];
        require(n.status == 1 && n.signer == signer, "not its vote");
    }

    function _domain() private view returns (bytes32) {
        return keccak256(
            abi.encode(
                keccak256(
                    "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
                ),
                keccak256("dstack-cluster"),
                keccak256("1"),
                block.chainid,
                address(this)
            )
        );
    }
}
