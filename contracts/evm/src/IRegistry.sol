// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

/// @title The membership registry as others see it: values, errors, events, functions.
/// @dev Its seldom used half stands in IAnnex; both answer at the registry's address.
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
    /// @param expiresAt unix seconds; while ACTIVE the end of the lease, which `announce` renews; else the
    ///        time before which nobody may register on the seat (0 or past: anybody who may)
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
    /// The key belongs to another seat, where it sits or once sat.
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
    /// A key sits on the seat, or left it not long enough ago, and the seat answers for it until then.
    error StillAnswers(uint40 until);
    error WalletHasSeat();
    error NotOnCurve();
    error NoNode();
    error AlreadyLaunched();
    error NothingToLaunch();
    /// Who votes changed since the owner looked.
    error OtherFounders();
    error NotGuardian();
    error BadWeight();
    error TooManySeats();
    error NoSuchSeat();
    /// The seat was suspended, or its node deactivated by others than its owner, until then.
    error CoolingDown(uint40 until);
    /// Not the contract of certificates that the registry names.
    error NotCertificates();
    /// Neither the owner, nor the minter within its weight.
    error NotMinter();

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
    event CompanionsChanged(address rules, address certificates);
    event MinterChanged(address minter, uint32 weightMax);
    /// `until` 0: the owner lifted it.
    event SeatSuspended(uint256 indexed seat, uint40 until);
    event LeaseChanged(uint40 leaseSeconds);
    event TransfersAllowed(bool allowed);

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

    // ----------------------------------------------------------- seat owner

    /// @notice Lets one instance register on the seat without a further owner signature; zero undoes.
    function bindInstance(uint256 seat, bytes20 instanceId) external;

    /// @notice Stops the seat's node and withdraws its binding: seat owner, guardian, contract owner.
    ///         If it was not the seat's owner, nobody registers there for the length of a lease.
    function deactivate(uint256 seat) external;

    // ------------------------------------------------------- contract owner

    /// @notice Fixes version, digest and weight of epoch 0, once: of those founders whom the owner looked at.
    /// @param founders the digest of `lastChange` when they were looked at; whoever came, left or got
    ///        another key or weight since then makes it another one
    function launch(bytes32 founders) external;
    /// @notice Also the minter's, up to its weight.
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
    /// @notice Ends a cool-down.
    function liftSuspension(uint256 seat) external;
    /// @notice Names the rules and the contract of certificates in force; zero for none.
    function setCompanions(address rules, address certificates) external;
    /// @notice Lets a contract grant seats of at most this weight; zero for none.
    function setMinter(address minter, uint32 weightMax) external;

    // ------------------------------------------------------- certificates

    /// @notice Stops the seat's node, if there is one; nobody registers there before `until` unless the
    ///         owner lifts it. A cool-down that lasts longer stays.
    /// @return whether there is such a seat: a burnt one cannot be suspended
    function suspend(uint256 seat, uint40 until) external returns (bool);

    // ------------------------------------- guardian (may only take away)

    function revokeRoot(uint16 epoch) external;
    /// @notice Stops `register` and `announce`; never an exit.
    function pause() external;

    // ---------------------------------------------------------------- views

    /// @notice The rules in force (IRules): boots, and the attestation policy. Slot 7.
    function rules() external view returns (address);
    /// @notice The contract that checks the cluster's certificates (ICertificates). Slot 8.
    function certificates() external view returns (address);
    function minter() external view returns (address minter, uint32 weightMax);
    /// @notice Whether an instance has a seat to come to: it is bound to one, or ACTIVE on one.
    function expectsInstance(bytes20 instanceId) external view returns (bool);
    /// @notice For each seat, weight << 160 | signer if it is ACTIVE under live anchors and voted, by this
    ///         key and weight, at `version` already; else 0. A lease may have run out: who voted, voted.
    /// @param list seats of 4 bytes, each at the beginning of `stride` bytes
    /// @return rows one for each seat of the list
    /// @return active weight, number of seats and of opened recoveries now
    function electorate(bytes calldata list, uint256 stride, uint64 version)
        external
        view
        returns (uint256[] memory rows, uint32 active, uint16 seatsActive, uint16 recoveries);
    /// @notice Which seat answers for what a key signed: that which it sits on, or left less than
    ///         `evidenceWindow` ago (put out, swept, replaced, burnt). Nobody while its app or root is not
    ///         live: then its secret may be anybody's.
    /// @return seat zero for none
    /// @return weight with which the seat votes now, by whichever key
    /// @return holds whether this key votes with it
    /// @return active weight, and number of seats, of all now
    function answers(address key)
        external
        view
        returns (uint32 seat, uint32 weight, bool holds, uint32 active, uint16 seatsActive);
    /// @notice Seconds for which a seat answers for a key that left it. So long it cannot be transferred.
    function evidenceWindow() external view returns (uint40);
    function version() external view returns (uint64);
    function digest() external view returns (bytes32);
    function launched()
        external
        view
        returns (uint64 blockNumber, uint64 version, bytes32 digest, uint32 weight);
    /// @notice The state right after the last change of who votes, by which key or weight. Since then
    ///         the ACTIVE seats, their keys and weights are as they are now.
    function lastChange() external view returns (uint64 blockNumber, uint64 version, bytes32 digest);
    /// @return highest seat number ever granted
    function seatCount() external view returns (uint256);
    function activeWeight() external view returns (uint32);
    /// @return seats that are ACTIVE
    function activeSeats() external view returns (uint16);
    function grantedWeight() external view returns (uint32);
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
