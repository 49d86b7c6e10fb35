// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

/// @title The seldom used half of the registry: recoveries of a lost quorum, and history.
/// @notice Called at the registry's own address, which hands these calls on to its annex.
interface IAnnex {
    // ---------------------------------------------------------------- values

    /// @notice A vote that was carried: the cluster goes on in `epoch`, on the block of `height`, with
    ///         the seats that were ACTIVE at `version`.
    /// @param blockNumber,version,digest the registry when the recovery opened
    struct Recovery {
        uint64 epoch;
        uint64 height;
        uint64 blockNumber;
        uint64 version;
        bytes32 blockHash;
        bytes32 digest;
    }

    // ---------------------------------------------------------------- errors

    /// The epoch does not come after the one that the last recovery opened.
    error StaleEpoch(uint64 last);
    /// The seats named hold no majority of the granted weight, or did not vote for this.
    error NoMajority(uint256 weight, uint32 granted);
    error NotAscending();
    /// The time for objections is not over.
    error TooEarly(uint64 readyAt);

    // ---------------------------------------------------------------- events

    /// `epoch` 0: the vote was withdrawn.
    event RecoveryVoted(
        uint256 indexed seat, uint64 round, uint64 epoch, uint64 height, bytes32 blockHash
    );
    event RecoveryAnnounced(
        uint64 round, uint64 epoch, uint64 height, bytes32 blockHash, uint64 readyAt
    );
    event RecoveryVetoed(uint64 round);
    event RecoveryOpened(
        uint64 round, uint64 epoch, uint64 height, bytes32 blockHash, uint64 version, bytes32 digest
    );

    // ------------------------------------------------------------- recoveries

    /// @notice Breaks the glass, for a cluster that lost its quorum for good: announces a recovery that
    ///         seats of more than half of the granted weight vote for; called again after the time
    ///         for objections, with a majority that still stands, opens it. If less than half of the weight
    ///         that was ACTIVE when it was announced is left by then, it is announced anew instead.
    /// @param seats those whose votes are to count, ascending
    function recover(uint64 epoch, uint64 height, bytes32 blockHash, uint256[] calldata seats)
        external;

    /// @notice As the seat's owner: votes that the cluster go on in `epoch` on its own final block of `height`, whatever
    ///         was final above it. One vote per seat: a new one replaces it, epoch 0 withdraws it.
    function voteRecovery(uint256 seat, uint64 epoch, uint64 height, bytes32 blockHash) external;

    /// @notice As the guardian or contract owner: ends the round: all votes for a recovery so far are void.
    function vetoRecovery() external;

    /// @notice The recovery that waits for its time (`readyAt` is 0 when there is none), the round of
    ///         votes, and how many recoveries were opened so far.
    function pendingRecovery()
        external
        view
        returns (
            uint64 round,
            uint64 epoch,
            uint64 height,
            uint64 readyAt,
            bytes32 blockHash,
            uint256 opened
        );
    /// @param index 0 for the first
    function recovery(uint256 index) external view returns (Recovery memory);
    /// @notice Time for objections, in seconds; fixed, or a stolen owner key could end it.
    function recoveryDelay() external view returns (uint40);
    /// @notice What the chain itself opened: the launch (`recoveries` 0), or a recovery (1 and up).
    function founding(uint256 recoveries)
        external
        view
        returns (uint64 epoch, uint64 version, uint32 weight);

    // --------------------------------------------------------------- history

    /// @notice A change of who votes: its block, the active weight from then on, the change before
    ///         it; zeros if that version was none.
    function changeOf(uint64 version)
        external
        view
        returns (uint64 blockNumber, uint32 total, uint64 previous);
    /// @return voting weight of the seat at the end of that block: zero unless ACTIVE then
    function weightAt(uint256 seat, uint48 blockNumber) external view returns (uint32);
    function totalWeightAt(uint48 blockNumber) external view returns (uint32);
}
