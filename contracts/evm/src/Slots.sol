// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

/// @title Where the registry keeps everything that both of its halves read.
/// @notice Registry and Annex run on the same storage, so both inherit this first, and nothing else
///         that has storage comes before it. build.py checks that the annex has no slots of its own.
abstract contract Slots {
    uint8 internal constant EMPTY = 0;
    uint8 internal constant ACTIVE = 1;
    uint8 internal constant INACTIVE = 2;

    /// @dev Three words and a string. The first word holds all that a check of a vote needs, and
    ///      `_firstWord` depends on the order of its fields.
    struct Node {
        address signer;
        uint32 weight; // of the seat; zero means that there is no such seat
        uint32 since; // version that last changed whether, by which key or weight the seat votes
        uint16 rootEpoch;
        uint8 appIndex;
        uint8 status;
        bytes32 keyX;
        bytes20 instanceId;
        uint48 incarnation; // outlives the node: an old machine can never come back with its number
        uint40 expiresAt; // of the lease while ACTIVE; else nobody registers here before
        uint8 form; // how the key came: 2 * scheme + parity of its y
        string endpoint;
    }

    struct Launch {
        uint64 blockNumber;
        uint64 version;
        uint32 weight;
        bool transfersAllowed; // lives here to fill the word; nothing to do with the launch
        bytes32 digest;
    }

    /// @dev To which seat a key belongs, for ever: dstack derives it from the seat, so no honest key ever
    ///      needs another. The rest is of a key that is not in its seat's row any more.
    struct Sitting {
        uint32 seat;
        uint40 until; // unix seconds; how long a key that is gone answers for what it signed
        uint16 rootEpoch; // with which it sat here
        uint8 appIndex;
    }

    /// @dev One word for each version that changed who votes: two lists, each linked backwards.
    struct Past {
        uint48 blockNumber;
        uint40 time; // of that block, unix seconds
        uint32 total; // active weight from this version on
        uint32 previous; // the change before this one; 0 for none
        uint32 seat;
        uint32 weightBefore; // with which the seat voted until this version
        uint32 sinceBefore; // the change of this seat before this one; 0 for none
    }

    /// @dev A recovery that waits for its time.
    struct Pending {
        uint64 round;
        uint64 epoch;
        uint64 height;
        uint64 readyAt; // unix seconds; 0 while none is announced
        bytes32 blockHash;
    }

    /// @dev A recovery that was opened, with the registry of that moment: three words.
    struct Opened {
        uint64 epoch;
        uint64 height;
        uint64 blockNumber;
        uint64 version;
        bytes32 blockHash;
        bytes32 digest;
    }

    // Slots 0 to 8 are what light clients prove against a block header: their place is part of the
    // interface (artifacts/Registry.json lists it).

    /// slot 0; the last change is the last commit that changed who votes, by which key or weight
    uint32 internal _version;
    uint32 internal _changeVersion;
    uint48 internal _changeBlock;
    uint32 internal _activeWeight;
    uint32 internal _grantedWeight;
    uint32 internal _seatCount;
    uint16 internal _liveSeats;
    uint16 internal _activeSeats;
    uint16 internal _recoveryCount;
    /// slot 1
    bytes32 internal _digest;
    /// slots 2 and 3
    Launch internal _launch;
    /// slot 4: the digest right after the last change; without meaning while that is the newest version,
    /// whose digest stands in slot 1: a change need not write the same word twice
    bytes32 internal _changeDigest;
    /// slot 5
    mapping(address signer => Sitting) internal _sittings;
    /// slot 6
    mapping(uint256 seat => Node) internal _nodes;
    /// slot 7
    address internal _rules;
    /// slot 8
    address internal _certificates;

    mapping(uint256 version => Past) internal _past;

    Pending internal _pending;
    Opened[] internal _recoveries;
    mapping(uint256 index => uint32 activeWeight) internal _recoveredWeight;
    mapping(uint256 seat => bytes32 proposal) internal _recoveryVote;
    uint32 internal _announcedWeight; // that was ACTIVE when the pending recovery was announced

    /// @dev The first word of a row, as one read: from its low end signer (160 bits), weight (32), since
    ///      (32), root epoch (16), app (8), status (8).
    function _firstWord(uint256 seat) internal view returns (uint256 word) {
        Node storage n = _nodes[seat];
        assembly ("memory-safe") {
            word := sload(n.slot)
        }
    }
}
