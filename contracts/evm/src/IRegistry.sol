// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

/// @title The membership registry as others see it: values, errors, events, functions.
/// @notice A seat is one NFT with a weight. At most one live node sits on a seat: an attested
///         machine whose key was proven by dstack's signature chain and by a signature of its own.
interface IRegistry {
    // ---------------------------------------------------------------- values

    /// @param seat number of the NFT, 1, 2, 3, ...
    /// @param keyX,keyY node key (secp256k1, affine); the contract checks the curve equation
    /// @param instanceId dstack instance id, never zero
    /// @param scheme how the app key signed the claim: 0 guest API v0, 1 guest API v1
    /// @param incarnation strictly rising per seat; an older copy of the node sees itself superseded
    /// @param deadline unix seconds; at most one day ahead
    /// @param endpoint libp2p multiaddr without the peer id (that follows from the key), 1..128 bytes
    struct Registration {
        uint256 seat;
        bytes32 keyX;
        bytes32 keyY;
        bytes20 instanceId;
        uint8 scheme;
        uint48 incarnation;
        uint64 deadline;
        string endpoint;
    }

    /// @param weight the seat's weight; it counts in `activeWeight` only while status is ACTIVE
    /// @param status 0 EMPTY (granted, no node), 1 ACTIVE, 2 INACTIVE (deactivated or swept)
    /// @param rootEpoch epoch of the KMS root under which the node's app key was certified
    /// @param keyOdd parity of the key's y: compressed key = (keyOdd ? 0x03 : 0x02) || keyX
    /// @param expiresAt end of the lease, unix seconds; `announce` renews it
    /// @param signer Ethereum address of the node key
    struct Member {
        uint256 seat;
        address owner;
        uint32 weight;
        uint8 status;
        uint16 rootEpoch;
        uint8 scheme;
        bool keyOdd;
        uint40 expiresAt;
        uint48 incarnation;
        bytes20 instanceId;
        bytes32 keyX;
        address signer;
        string endpoint;
    }

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

    error ZeroAddress();
    /// The recovered app key was never certified, or is certified for another app.
    error BadAppKey();
    error AppNotAllowed(bytes20 appId);
    error RootNotLive(uint16 epoch);
    error NotSeatOwner();
    /// Neither the seat owner, nor a bound instance, nor a valid owner signature.
    error NotAuthorized();
    error BadIncarnation(uint48 have);
    error KeyInUse();
    error InstanceInUse();
    /// The instance id is zero.
    error BadInstance();
    error BadSignature();
    error BadEndpoint();
    error BadDeadline();
    error BadLease();
    error BadScheme();
    error SeatLocked();
    error WalletHasSeat();
    error NotOnCurve();
    error NoNode();
    error AlreadyLaunched();
    error NothingToLaunch();
    error NotGuardian();
    error BadWeight();
    error TooManySeats();
    error NoSuchSeat();
    /// The epoch does not come after the one that the last recovery opened.
    error StaleEpoch(uint64 last);
    /// The seats named hold no majority of the granted weight, or did not vote for this.
    error NoMajority(uint256 weight, uint32 granted);
    error NotAscending();
    /// The time for objections is not over.
    error TooEarly(uint64 readyAt);

    // ---------------------------------------------------------------- events

    /// Every field of the digest step is here (with the block number of the log), so whoever has the
    /// events can rebuild `digest()` and see that none was withheld or altered.
    event NodeChanged(
        uint256 indexed seat,
        uint64 version,
        bytes32 keyX,
        bool keyOdd,
        bytes20 instanceId,
        uint32 weight,
        uint8 status
    );
    event Endpoint(uint256 indexed seat, uint48 incarnation, string endpoint, uint40 expiresAt);
    event Launched(uint64 version, bytes32 digest, uint32 weight);
    event InstanceBound(uint256 indexed seat, bytes20 instanceId);
    event AppKeyCertified(address indexed appKey, bytes20 indexed appId, uint16 rootEpoch);
    event AppAllowed(bytes20 indexed appId, bool allowed);
    event RootRotated(uint16 indexed epoch, address signer, uint40 previousValidUntil);
    event RootRevoked(uint16 indexed epoch);
    event GuardianChanged(address guardian);
    event LeaseChanged(uint40 leaseSeconds);
    event TransfersAllowed(bool allowed);
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

    // -------------------------------------------------------------- anybody

    /// @notice Records that a live KMS root vouches for an app key; open to all, once per key.
    /// @param appId dstack app id
    /// @param x,y app key (secp256k1, affine)
    /// @param kmsSignature r||s||v (v 27/28, low s) over
    ///        keccak("dstack-kms-issued:" || appId || compressed app key)
    function certifyAppKey(
        bytes20 appId,
        bytes32 x,
        bytes32 y,
        bytes calldata kmsSignature,
        uint16 rootEpoch
    ) external;

    /// @notice Puts a node on a seat. Authorised by the seat owner: as the sender, by `bindInstance`
    ///         beforehand, or by `ownerSignature` = abi.encode(uint64 deadline, bytes signature).
    /// @param appSignature the app key's claim for purpose `purposeOf(seat, instanceId)` and the key
    /// @param nodeSignature EIP-712 `Register` by the node key: proof of possession
    function register(
        Registration calldata r,
        bytes calldata appSignature,
        bytes calldata nodeSignature,
        bytes calldata ownerSignature
    ) external;

    /// @notice New boot, new endpoint and lease renewal in one; the node key signs, anyone may send.
    function announce(
        uint256 seat,
        uint48 incarnation,
        uint64 deadline,
        string calldata endpoint,
        bytes calldata nodeSignature
    ) external;

    /// @notice Takes the weight of nodes out whose lease ended, root died or app was disallowed.
    ///         Seats that do not qualify are passed over.
    function sweep(uint256[] calldata seats) external;

    /// @notice Breaks the glass, for a cluster that lost its quorum for good: announces a recovery that
    ///         seats of more than half of the granted weight vote for; called again after the time
    ///         for objections, with a majority that still stands, opens it.
    /// @param seats those whose votes are to count, ascending
    function recover(uint64 epoch, uint64 height, bytes32 blockHash, uint256[] calldata seats)
        external;

    // ----------------------------------------------------------- seat owner

    /// @notice Votes that the cluster go on in `epoch` on its own final block of `height`, whatever
    ///         was final above it. One vote per seat: a new one replaces it, epoch 0 withdraws it.
    function voteRecovery(uint256 seat, uint64 epoch, uint64 height, bytes32 blockHash) external;

    /// @notice Lets one instance register on the seat without a further owner signature; zero undoes.
    function bindInstance(uint256 seat, bytes20 instanceId) external;

    /// @notice Stops the seat's node and withdraws its binding: seat owner, guardian, contract owner.
    function deactivate(uint256 seat) external;

    // ------------------------------------------------------- contract owner

    /// @notice Fixes version, digest and weight of epoch 0, once.
    function launch() external;
    function grantSeat(address to, uint32 weight) external returns (uint256 seat);
    function setWeight(uint256 seat, uint32 weight) external;
    function burnSeat(uint256 seat) external;
    /// @param graceUntil unix seconds until which the previous root stays live (past: ends at once)
    function rotateRoot(address newRoot, uint40 graceUntil) external;
    function allowApp(bytes20 appId, bool allowed) external;
    function setGuardian(address guardian) external;
    function setLease(uint40 leaseSeconds) external;
    function setTransfersAllowed(bool allowed) external;
    function unpause() external;

    // ------------------------------------- guardian (may only take away)

    function revokeRoot(uint16 epoch) external;
    /// @notice Stops `register` and `announce`; never an exit.
    function pause() external;
    /// @notice Ends the round: all votes for a recovery so far are void.
    function vetoRecovery() external;

    // ---------------------------------------------------------------- views

    function version() external view returns (uint64);
    function digest() external view returns (bytes32);
    function launched()
        external
        view
        returns (uint64 blockNumber, uint64 version, bytes32 digest, uint32 weight);
    /// @notice The state right after the last change of who votes, by which key or weight. Since then
    ///         the ACTIVE seats, their keys and weights are as they are now.
    function lastChange() external view returns (uint64 blockNumber, uint64 version, bytes32 digest);
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
    /// @return highest seat number ever granted
    function seatCount() external view returns (uint256);
    function activeWeight() external view returns (uint32);
    function grantedWeight() external view returns (uint32);
    /// @return voting weight of the seat at the end of that block: zero unless ACTIVE then
    function weightAt(uint256 seat, uint48 blockNumber) external view returns (uint32);
    function totalWeightAt(uint48 blockNumber) external view returns (uint32);
    /// @notice Rows of the seats `from` .. `from + count - 1`, burnt ones left out.
    /// @return members rows in order of seat
    /// @return next where to go on; 0 at the end
    function page(uint256 from, uint256 count)
        external
        view
        returns (Member[] memory members, uint256 next);
    function member(uint256 seat) external view returns (Member memory);
    /// @return appId zero if the key is not certified
    function appKey(address appKeyAddress) external view returns (bytes20 appId, uint16 rootEpoch);
    function allowedApp(bytes20 appId) external view returns (bool);
    /// @return signer zero if there is no such epoch
    /// @return validUntil live while block time is below; revoked: 0; current: the type's maximum
    function root(uint16 epoch) external view returns (address signer, uint40 validUntil);
    function currentRootEpoch() external view returns (uint16);
    function boundInstance(uint256 seat) external view returns (bytes20);
    /// @return text that the node passes to dstack: GetKey v0 path and purpose, GetKey v1 domain
    function purposeOf(uint256 seat, bytes20 instanceId) external view returns (string memory);
    function domainSeparator() external view returns (bytes32);
}
