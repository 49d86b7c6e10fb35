// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";
import {Ownable2Step} from "@openzeppelin/contracts/access/Ownable2Step.sol";
import {ERC721} from "@openzeppelin/contracts/token/ERC721/ERC721.sol";
import {Pausable} from "@openzeppelin/contracts/utils/Pausable.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {SignatureChecker} from "@openzeppelin/contracts/utils/cryptography/SignatureChecker.sol";

import {Annex} from "./Annex.sol";
import {Certificates} from "./Certificates.sol";
import {Domain} from "./Domain.sol";
import {IRegistry} from "./IRegistry.sol";
import {KeyClaims} from "./KeyClaims.sol";
import {Pages} from "./Pages.sol";
import {Rules} from "./Rules.sol";

/// @title Seats (ERC-721 with weights) and the attested nodes that sit on them.
/// @notice Reading order: IRegistry (what there is), KeyClaims (what dstack signs), Ledger (rows,
///         weights, digest), TrustAnchors (roots, apps, app keys), Electorate (who votes, who answers
///         for a key), Pages (rows for readers), this file, then Annex (a cluster that lost its
///         quorum; history).
///
///         Who may do what. The contract owner (a timelock or Safe) grants, weighs and burns seats
///         and names the trust anchors. The guardian may only take away. The seat owner decides
///         which instance sits on the seat. The node key speaks for the node. Anybody may relay,
///         certify app keys and sweep. No function takes money, and none calls out except ERC-1271
///         (static) to a seat owner that is a contract.
contract Registry is Pages, Ownable2Step, Pausable {
    bytes32 private constant REGISTER_TYPEHASH = keccak256(
        "Register(uint256 seat,bytes32 keyX,bool keyOdd,bytes20 instanceId,uint8 scheme,uint48 incarnation,uint64 deadline,string endpoint)"
    );
    bytes32 private constant ANNOUNCE_TYPEHASH =
        keccak256("Announce(uint256 seat,uint48 incarnation,uint64 deadline,string endpoint)");
    bytes32 private constant AUTHORIZE_TYPEHASH =
        keccak256("Authorize(uint256 seat,bytes20 instanceId,uint64 deadline)");

    uint256 private constant ENDPOINT_BYTES_MAX = 128;
    uint256 private constant DEADLINE_AHEAD_MAX = 1 days;
    uint40 private constant LEASE_MAX = 365 days;

    // first of all, so that it shares a word with what Pausable keeps, which is read beside it
    uint32 private _leaseSeconds;

    /// @notice Most seats that may exist at a time.
    uint32 public immutable maxSeats;

    /// @notice The other half of this contract's code: what is called here and not found here.
    address public immutable annex;

    /// @notice May only take away: pause, revoke roots, deactivate nodes.
    address public guardian;

    mapping(bytes20 instanceId => uint256 seat) private _seatOfInstance;
    /// @inheritdoc IRegistry
    mapping(uint256 seat => bytes20) public override boundInstance;
    mapping(bytes20 instanceId => uint256) private _bindings;

    address private _minter;
    uint32 private _minterWeightMax;

    modifier onlyGuardian() {
        if (msg.sender != guardian && msg.sender != owner()) revert NotGuardian();
        _;
    }

    constructor(
        address initialOwner,
        address guardian_,
        address kmsRoot,
        uint32 maxSeats_,
        uint40 leaseSeconds,
        uint40 recoveryDelaySeconds
    ) ERC721("dstack cluster seat", "SEAT") Ownable(initialOwner) {
        if (maxSeats_ == 0 || maxSeats_ > type(uint16).max) {
            revert TooManySeats();
        }
        maxSeats = maxSeats_;
        annex = address(new Annex(recoveryDelaySeconds));
        _setGuardian(guardian_);
        _setLease(leaseSeconds);
        _rotateRoot(kmsRoot, 0);
        // made here: one transaction deploys all, and there is no moment with a part of it
        _setCompanions(address(new Rules(address(this))), address(new Certificates(address(this))));
    }

    /// @dev Hands on what is not here to the annex, on this contract's storage. Its code was fixed when
    ///      this contract was made, and it refuses what it does not know. Takes no money.
    fallback() external {
        address to = annex;
        assembly ("memory-safe") {
            let free := mload(0x40)
            calldatacopy(free, 0, calldatasize())
            let done := delegatecall(gas(), to, free, calldatasize(), 0, 0)
            returndatacopy(free, 0, returndatasize())
            if done { return(free, returndatasize()) }
            revert(free, returndatasize())
        }
    }

    // -------------------------------------------------------------- anybody

    /// @inheritdoc IRegistry
    function register(
        Registration calldata r,
        bytes calldata appSignature,
        bytes calldata nodeSignature,
        bytes calldata ownerSignature
    ) external whenNotPaused {
        Node storage n = _nodes[r.seat];
        if (n.weight == 0) revert NoSuchSeat();
        // zero is the "nothing bound" of boundInstance: it must never match
        if (r.instanceId == 0) revert BadInstance();
        _checkDeadline(r.deadline);
        _checkEndpoint(r.endpoint);
        if (r.incarnation <= n.incarnation) revert BadIncarnation(n.incarnation);
        if (n.status != ACTIVE && block.timestamp < n.expiresAt) revert CoolingDown(n.expiresAt);
        if (!KeyClaims.onCurve(r.keyX, r.keyY)) revert NotOnCurve();
        _authorize(r.seat, r.instanceId, ownerSignature);

        bool keyOdd = KeyClaims.isOdd(r.keyY);
        (uint8 appIndex, uint16 rootEpoch) = _requireAppKey(_claim(r, keyOdd), appSignature);
        address signer = KeyClaims.addressOf(r.keyX, r.keyY);
        if (ECDSA.recoverCalldata(_registerHash(r, keyOdd), nodeSignature) != signer) {
            revert BadSignature();
        }
        uint32 before = _votes(n);
        bool rekeyed = before != 0 && n.signer != signer;
        _occupy(r.seat, n, signer, r.instanceId);

        n.expiresAt = _leaseEnd();
        n.rootEpoch = rootEpoch;
        n.status = ACTIVE;
        n.keyX = r.keyX;
        n.incarnation = r.incarnation;
        n.appIndex = appIndex;
        n.form = r.scheme * 2 + (keyOdd ? 1 : 0);
        n.endpoint = r.endpoint;
        _commit(r.seat, before, rekeyed);
        emit Endpoint(r.seat, r.incarnation, r.endpoint, n.expiresAt);
    }

    /// @inheritdoc IRegistry
    function announce(
        uint256 seat,
        uint48 incarnation,
        uint64 deadline,
        string calldata endpoint,
        bytes calldata nodeSignature
    ) external whenNotPaused {
        Node storage n = _nodes[seat];
        if (n.status != ACTIVE) revert NoNode();
        _checkDeadline(deadline);
        _checkEndpoint(endpoint);
        if (incarnation <= n.incarnation) revert BadIncarnation(n.incarnation);
        _requireLiveAnchors(n.appIndex, n.rootEpoch);
        bytes32 hash = _typed(
            keccak256(
                abi.encode(
                    ANNOUNCE_TYPEHASH, seat, incarnation, deadline, keccak256(bytes(endpoint))
                )
            )
        );
        if (ECDSA.recoverCalldata(hash, nodeSignature) != n.signer) revert BadSignature();

        uint40 expiresAt = _leaseEnd();
        n.expiresAt = expiresAt;
        n.incarnation = incarnation;
        n.endpoint = endpoint;
        emit Endpoint(seat, incarnation, endpoint, expiresAt);
    }

    /// @inheritdoc IRegistry
    function sweep(uint256[] calldata seats) external {
        for (uint256 i = 0; i < seats.length; ++i) {
            Node storage n = _nodes[seats[i]];
            if (n.status != ACTIVE) continue;
            if (block.timestamp < n.expiresAt && _anchorsLive(n.appIndex, n.rootEpoch)) continue;
            _stop(seats[i], 0);
        }
    }

    // ----------------------------------------------------------- seat owner

    /// @inheritdoc IRegistry
    function bindInstance(uint256 seat, bytes20 instanceId) external {
        if (_ownerOfSeat(seat) != msg.sender) revert NotSeatOwner();
        _bind(seat, instanceId);
    }

    /// @inheritdoc IRegistry
    function deactivate(uint256 seat) external {
        address seatOwner = _ownerOfSeat(seat);
        if (msg.sender != seatOwner && msg.sender != guardian && msg.sender != owner()) {
            revert NotSeatOwner();
        }
        if (_nodes[seat].status != ACTIVE) revert NoNode();
        // or the node would simply register again
        if (boundInstance[seat] != 0) _bind(seat, 0);
        // her own decision is hers to take back; anybody else's stands for a while
        _stop(seat, msg.sender == seatOwner ? 0 : _leaseEnd());
    }

    // ------------------------------------------------------- contract owner

    /// @inheritdoc IRegistry
    function launch(bytes32 founders) external onlyOwner {
        if (_launch.blockNumber != 0) revert AlreadyLaunched();
        uint32 weight = _activeWeight;
        if (weight == 0) revert NothingToLaunch();
        if (founders != _voters()) revert OtherFounders();
        _launch.blockNumber = uint64(block.number);
        _launch.version = _version;
        _launch.weight = weight;
        _launch.digest = _digest;
        emit Launched(_version, _digest, weight);
    }

    /// @inheritdoc IRegistry
    function grantSeat(address to, uint32 weight) external returns (uint256 seat) {
        if (msg.sender != owner() && (msg.sender != _minter || weight > _minterWeightMax)) {
            revert NotMinter();
        }
        if (weight == 0) revert BadWeight();
        if (_liveSeats >= maxSeats) revert TooManySeats();
        _regrant(0, weight);
        ++_liveSeats;
        seat = ++_seatCount;
        _nodes[seat].weight = weight;
        // not _safeMint: nothing may run between the parts of a grant
        _mint(to, seat);
        _commit(seat, 0, false);
    }

    /// @inheritdoc IRegistry
    function setWeight(uint256 seat, uint32 weight) external onlyOwner {
        Node storage n = _nodes[seat];
        if (n.weight == 0) revert NoSuchSeat();
        if (weight == 0) revert BadWeight();
        uint32 before = _votes(n);
        _regrant(n.weight, weight);
        n.weight = weight;
        _commit(seat, before, false);
    }

    /// @inheritdoc IRegistry
    function burnSeat(uint256 seat) external onlyOwner {
        if (_nodes[seat].weight == 0) revert NoSuchSeat();
        _burn(seat);
    }

    /// @inheritdoc IRegistry
    function rotateRoot(address newRoot, uint40 graceUntil) external onlyOwner {
        _rotateRoot(newRoot, graceUntil);
    }

    /// @inheritdoc IRegistry
    function allowApp(bytes20 appId, bool allowed) external onlyOwner {
        _allowApp(appId, allowed);
    }

    /// @inheritdoc IRegistry
    function setGuardian(address newGuardian) external onlyOwner {
        _setGuardian(newGuardian);
    }

    /// @inheritdoc IRegistry
    function setLease(uint40 leaseSeconds) external onlyOwner {
        _setLease(leaseSeconds);
    }

    /// @inheritdoc IRegistry
    function setTransfersAllowed(bool allowed) external onlyOwner {
        _launch.transfersAllowed = allowed;
        emit TransfersAllowed(allowed);
    }

    /// @inheritdoc IRegistry
    function unpause() external onlyOwner {
        _unpause();
    }

    /// @inheritdoc IRegistry
    function liftSuspension(uint256 seat) external onlyOwner {
        Node storage n = _nodes[seat];
        if (n.status == ACTIVE) revert NoNode();
        n.expiresAt = 0;
        emit SeatSuspended(seat, 0);
    }

    /// @inheritdoc IRegistry
    function setCompanions(address rules_, address certificates_) external onlyOwner {
        _setCompanions(rules_, certificates_);
    }

    /// @inheritdoc IRegistry
    function setMinter(address newMinter, uint32 weightMax) external onlyOwner {
        (_minter, _minterWeightMax) = (newMinter, weightMax);
        emit MinterChanged(newMinter, weightMax);
    }

    /// @notice A registry without an owner could never replace a broken root: refused.
    function renounceOwnership() public pure override {
        revert OwnableInvalidOwner(address(0));
    }

    // ------------------------------------------------------------- guardian

    /// @inheritdoc IRegistry
    function revokeRoot(uint16 epoch) external onlyGuardian {
        _revokeRoot(epoch);
    }

    /// @inheritdoc IRegistry
    function pause() external onlyGuardian {
        _pause();
    }

    // --------------------------------------------------------- certificates

    /// @inheritdoc IRegistry
    function suspend(uint256 seat, uint40 until) external returns (bool) {
        if (msg.sender != _certificates) revert NotCertificates();
        Node storage n = _nodes[seat];
        if (n.weight == 0) return false;
        if (n.status == ACTIVE) _stop(seat, until);
        else if (n.expiresAt < until) n.expiresAt = until;
        emit SeatSuspended(seat, until);
        return true;
    }

    // ---------------------------------------------------------------- views

    /// @inheritdoc IRegistry
    function expectsInstance(bytes20 instanceId) external view returns (bool) {
        return _bindings[instanceId] != 0 || _nodes[_seatOfInstance[instanceId]].status == ACTIVE;
    }

    /// @inheritdoc IRegistry
    function minter() external view returns (address, uint32) {
        return (_minter, _minterWeightMax);
    }

    /// @inheritdoc IRegistry
    function purposeOf(uint256 seat, bytes20 instanceId) external view returns (string memory) {
        return string(KeyClaims.purpose(seat, instanceId));
    }

    /// @inheritdoc IRegistry
    function domainSeparator() external view returns (bytes32) {
        return Domain.separator(address(this));
    }

    /// @notice Length of the lease that `register` and `announce` give, in seconds.
    function leaseDuration() external view returns (uint40) {
        return _leaseSeconds;
    }

    /// @notice Seats have no pictures: clients read `member`.
    function tokenURI(uint256) public pure override returns (string memory) {
        return "";
    }

    /// @notice Whether seat owners may transfer their seats.
    function transfersAllowed() external view returns (bool) {
        return _launch.transfersAllowed;
    }

    // ------------------------------------------------------------- internal

    /// @dev One place for mint, transfer and burn. A seat that changes hands loses its node; its
    ///      incarnation stays, so that the former node cannot return under an old number.
    function _update(address to, uint256 seat, address auth)
        internal
        override
        returns (address from)
    {
        from = _ownerOf(seat);
        if (to != address(0)) {
            if (from != address(0)) {
                if (!_launch.transfersAllowed) revert SeatLocked();
                // the seat pays for its keys: not before the last one is free may it be another's
                uint40 answering = _answersUntil(_nodes[seat]);
                if (block.timestamp < answering) revert StillAnswers(answering);
            }
            if (balanceOf(to) != 0) revert WalletHasSeat();
        }
        super._update(to, seat, auth);
        if (from == address(0)) return from;

        if (boundInstance[seat] != 0) _bind(seat, 0);
        delete _recoveryVote[seat];
        Node storage n = _nodes[seat];
        // nothing that the digest tells of is another: or two wallets could pass a seat to and fro,
        // and make the past that every new reader goes through as long as they like
        if (n.status == EMPTY && to != address(0)) return from;
        (uint32 weight, uint32 before) = (n.weight, _votes(n));
        // what outlives the node: its numbers, a cool-down, and the seat's history
        (uint48 incarnation, uint32 since) = (n.incarnation, n.since);
        uint40 until = n.status == ACTIVE ? 0 : n.expiresAt;
        if (n.signer != address(0)) {
            _leave(n);
            delete _seatOfInstance[n.instanceId];
        }
        delete _nodes[seat];
        n.since = since;
        if (to == address(0)) {
            _regrant(weight, 0);
            --_liveSeats;
        } else {
            (n.weight, n.incarnation, n.expiresAt) = (weight, incarnation, until);
        }
        _commit(seat, before, false);
    }

    /// @dev Passes if the seat owner wants this instance here. Her own word (sender or signature)
    ///      also withdraws an older binding, or the earlier instance could push the new one off.
    function _authorize(uint256 seat, bytes20 instanceId, bytes calldata ownerSignature) private {
        bytes20 bound = boundInstance[seat];
        if (bound == instanceId) return;
        address seatOwner = _ownerOf(seat);
        if (msg.sender != seatOwner) {
            // the shortest abi.encode(uint64, bytes) with a signature in it: 4 words
            if (ownerSignature.length < 128) revert NotAuthorized();
            (uint64 deadline, bytes memory signature) = abi.decode(ownerSignature, (uint64, bytes));
            _checkDeadline(deadline);
            bytes32 hash =
                _typed(keccak256(abi.encode(AUTHORIZE_TYPEHASH, seat, instanceId, deadline)));
            if (!SignatureChecker.isValidSignatureNow(seatOwner, hash, signature)) {
                revert NotAuthorized();
            }
        }
        if (bound != 0) _bind(seat, 0);
    }

    /// @dev One seat per key, for ever, and per instance, which is set free when another comes.
    function _occupy(uint256 seat, Node storage n, address signer, bytes20 instanceId) private {
        if (n.signer != signer) {
            uint32 its = _sittings[signer].seat;
            if (its == 0) _sittings[signer].seat = uint32(seat);
            else if (its != seat) revert KeyInUse();
            if (n.signer != address(0)) _leave(n);
            n.signer = signer;
        }
        bytes20 oldInstanceId = n.instanceId;
        if (oldInstanceId != instanceId) {
            if (_seatOfInstance[instanceId] != 0) revert InstanceInUse();
            if (oldInstanceId != 0) delete _seatOfInstance[oldInstanceId];
            _seatOfInstance[instanceId] = seat;
            n.instanceId = instanceId;
        }
    }

    function _bind(uint256 seat, bytes20 instanceId) private {
        bytes20 bound = boundInstance[seat];
        if (bound != 0) --_bindings[bound];
        if (instanceId != 0) ++_bindings[instanceId];
        boundInstance[seat] = instanceId;
        emit InstanceBound(seat, instanceId);
    }

    /// @dev Takes the node off; nobody registers before `until`.
    function _stop(uint256 seat, uint40 until) private {
        Node storage n = _nodes[seat];
        uint32 before = n.weight;
        n.status = INACTIVE;
        n.expiresAt = until;
        _commit(seat, before, false);
    }

    function _setCompanions(address rules_, address certificates_) private {
        (_rules, _certificates) = (rules_, certificates_);
        emit CompanionsChanged(rules_, certificates_);
    }

    function _typed(bytes32 structHash) private view returns (bytes32) {
        return Domain.digest(Domain.separator(address(this)), structHash);
    }

    function _setGuardian(address newGuardian) private {
        if (newGuardian == address(0)) revert ZeroAddress();
        guardian = newGuardian;
        emit GuardianChanged(newGuardian);
    }

    function _setLease(uint40 leaseSeconds) private {
        if (leaseSeconds == 0 || leaseSeconds > LEASE_MAX) revert BadLease();
        _leaseSeconds = uint32(leaseSeconds);
        emit LeaseChanged(leaseSeconds);
    }

    /// @dev The claim is rebuilt here from what is registered; no caller's text enters it.
    function _claim(Registration calldata r, bool keyOdd) private view returns (bytes32) {
        bytes memory purposeText = KeyClaims.purpose(r.seat, r.instanceId);
        if (r.scheme == 0) return KeyClaims.claimV0(purposeText, r.keyX, keyOdd);
        if (r.scheme == 1) return KeyClaims.claimV1(purposeText, r.keyX, keyOdd);
        revert BadScheme();
    }

    function _registerHash(Registration calldata r, bool keyOdd) private view returns (bytes32) {
        return _typed(
            keccak256(
                abi.encode(
                    REGISTER_TYPEHASH,
                    r.seat,
                    r.keyX,
                    keyOdd,
                    r.instanceId,
                    r.scheme,
                    r.incarnation,
                    r.deadline,
                    keccak256(bytes(r.endpoint))
                )
            )
        );
    }

    function _leaseEnd() private view returns (uint40) {
        return uint40(block.timestamp) + _leaseSeconds;
    }

    function _ownerOfSeat(uint256 seat) private view returns (address seatOwner) {
        seatOwner = _ownerOf(seat);
        if (seatOwner == address(0)) revert NoSuchSeat();
    }

    function _checkDeadline(uint64 deadline) private view {
        if (deadline <= block.timestamp || deadline > block.timestamp + DEADLINE_AHEAD_MAX) {
            revert BadDeadline();
        }
    }

    function _checkEndpoint(string calldata endpoint) private pure {
        uint256 length = bytes(endpoint).length;
        if (length == 0 || length > ENDPOINT_BYTES_MAX) revert BadEndpoint();
    }
}
