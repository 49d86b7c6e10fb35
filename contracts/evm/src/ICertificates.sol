// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

/// @title What the cluster says about itself, checked on chain: leaders, deposed leaders, liars.
/// @notice Forms that all functions share:
///         - a *header* is the 152 bytes that consensus hashes: epoch, term, index, proposer, height (u64
///           each), parent (32), time (u64), body hash (32), state height (u64), state hash (32);
///         - *parts* are votes of one certificate, 69 bytes each, seats strictly ascending: seat u32,
///           reason u8 (0 unless it is a nullification), r, and s with the parity of the nonce point in
///           its top bit (EIP-2098).
///         Votes are those of consensus, EIP-712 under the registry's domain, byte for byte.
interface ICertificates {
    /// What follows for the seat: a record and an event only, or that its node is put out as well.
    enum Effect {
        MARK,
        SUSPEND
    }

    /// @param deposalSeconds,conflictSeconds how long the seat stays suspended; the type's maximum: until
    ///        the owner lifts it
    /// @param minSeats nobody is suspended if fewer ACTIVE seats than that would be left
    struct Policy {
        Effect deposal;
        Effect conflict;
        uint40 deposalSeconds;
        uint40 conflictSeconds;
        uint16 minSeats;
    }

    /// @param kind 1 Notarize, 2 Nullify, 3 Finalize
    /// @param blockHash zero for Nullify
    /// @param reason zero unless Nullify
    /// @param r,vs the signature (EIP-2098)
    struct Vote {
        uint8 kind;
        uint64 epoch;
        uint64 term;
        uint64 index;
        bytes32 blockHash;
        uint8 reason;
        bytes32 r;
        bytes32 vs;
    }

    error NotOwner();
    error BadPolicy();
    /// Neither launch nor the last recovery opened it, and no boundary of it was shown since.
    error UnknownEpoch(uint64 epoch);
    error EpochKnown(uint64 epoch);
    /// Not 152 bytes, or not of the epoch and term that it is shown for.
    error BadHeader();
    /// The body is not that of the header, or holds no record of the next epoch where one must be.
    error BadBoundary();
    /// The record's chain block is not the block of that change of the registry, or not its last.
    error BadChange(uint64 version);
    /// Not a whole number of parts, not ascending, or an unknown reason.
    error BadParts();
    /// Not by the seat's key, or not canonical.
    error BadSignature(uint256 seat);
    error NoQuorum(uint256 weight, uint256 total);
    /// Those who accuse by themselves (not because others did, nor because the leader stepped down) hold
    /// no more than a third of the weight: no correct member needs to be among them.
    error NotAccused(uint256 weight, uint256 total);
    /// A leadership of the same or a later view is recorded.
    error StaleLeader();
    /// Nothing shows who led that term.
    error LeaderUnknown();
    /// The seat has no node, or one whose key or weight changed since; it does not answer for the key.
    error NotSeated(uint256 seat);
    /// Too little would be left.
    error BelowMinimum(uint256 weight, uint256 seats);
    error NoConflict();
    /// Recorded already, with all that follows from it.
    error AlreadyMarked();

    event EpochOpened(uint64 indexed epoch, uint64 version, uint32 weight);
    event LeaderRecorded(
        uint64 indexed epoch,
        uint64 indexed term,
        uint256 indexed seat,
        uint64 index,
        bytes32 blockHash
    );
    event LeaderDeposed(
        uint64 indexed epoch,
        uint64 indexed term,
        uint256 indexed seat,
        uint64 index,
        bool suspended
    );
    event ConflictProven(
        uint256 indexed seat, address indexed key, uint64 epoch, uint64 term, bool suspended
    );
    event PolicySet(Policy policy);

    // -------------------------------------------------------------- anybody

    /// @notice Binds the epoch that the chain itself opened last: by the launch, or by a recovery. Needed
    ///         only when that number was bound to another branch before; else the others see to it.
    function openFounding() external returns (uint64 epoch);

    /// @notice Binds an epoch to the registry's state that its members come from. Only the registry's owner
    ///         binds one to a state with less than half of the weight that was bound last.
    /// @param boundary header of the block that ended the epoch before
    /// @param body that block's body; it names the epoch and the chain block
    /// @param headers those of blocks that stand on it, one after the other, all of the new epoch
    /// @param parts the finalization of the last of them, by the new epoch's members
    /// @param version the registry's change of who votes in that chain block, its last there; without
    ///        meaning when the record names no chain block (the set of launch or recovery goes on)
    /// @param next the change after it; 0 when there is none
    function openEpoch(
        bytes calldata boundary,
        bytes calldata body,
        bytes calldata headers,
        bytes calldata parts,
        uint64 version,
        uint64 next
    ) external;

    /// @notice Records who leads: a final block's header names its proposer.
    /// @param parts finalization of that block
    function recordLeader(bytes calldata header, bytes calldata parts) external;

    /// @notice Shows that the cluster deposed a leader.
    /// @param parts nullification of view (term, index)
    /// @param header any block that the leader proposed in that term, empty if the term's leadership is
    ///        the one recorded
    /// @param r,vs the leader's own notarize vote for that block, which is how proposals are signed
    function depose(
        uint64 epoch,
        uint64 term,
        uint64 index,
        bytes calldata parts,
        bytes calldata header,
        bytes32 r,
        bytes32 vs
    ) external;

    /// @notice Shows two votes of one key that no correct member signs both. The seat pays for the key on it,
    ///         and for one that left it within the registry's `evidenceWindow`.
    function proveConflict(uint256 seat, Vote calldata first, Vote calldata second) external;

    // ------------------------------------------------------ registry's owner

    function setPolicy(Policy calldata policy) external;

    // ---------------------------------------------------------------- views

    function policy() external view returns (Policy memory);
    /// @notice The newest leadership on record; epoch, term and seat are zero while there is none.
    function leader()
        external
        view
        returns (uint64 epoch, uint64 term, uint64 index, uint32 seat, bytes32 blockHash);
    /// @notice What an epoch is bound to; weight 0 while that is not known.
    /// @param recoveries how many were opened when it was bound: void once there are more
    function snapshot(uint64 epoch)
        external
        view
        returns (uint64 version, uint32 weight, uint16 recoveries);
    /// @notice Whether a key signed a conflicting pair.
    function convicted(address key) external view returns (bool);
    /// @notice The last term that a seat was marked deposed for; zeros if it never was.
    function lastDeposed(uint256 seat) external view returns (uint64 epoch, uint64 term);
}
