// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

/// @title The rules of the membership contract that came before ours, with every hole that they had,
///        behind the calls of ours. Never deployed: the attacks of this folder are run against it to
///        show that they would find each hole (E01 to E24).
/// @notice It is not that contract but its rules in as few lines as will do: a KMS root signs an app key,
///         the app key signs a node's key, a wallet with a seat names an instance.
contract FlawedMembership {
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

    struct Node {
        bytes32 keyX;
        bool keyOdd;
        address signer;
        uint8 status;
        string endpoint;
    }

    event NodeRegistered(string indexed instance, string endpoint); // E19: a hash, and no seat

    address public owner;
    address internal kmsRoot;
    uint256 public seatCount;
    uint256 private _price;
    uint32 private _cap;
    bool private _certified;

    mapping(uint256 seat => address) public ownerOf;
    mapping(uint256 seat => uint32) internal weightOf;
    mapping(address wallet => uint256 seat) internal seatOf; // E08, E09: one number, overwritten
    mapping(uint256 seat => bytes20) internal instanceOf;
    mapping(bytes20 instanceId => uint256) internal seatOfInstance;
    mapping(bytes20 instanceId => Node) internal nodes; // E24: zero is a key like any other
    mapping(bytes20 appId => bool) private _listed;

    constructor(address owner_, address, address root, uint32 cap, uint40, uint40) {
        (owner, kmsRoot, _cap) = (owner_, root, cap); // E12: no root is refused
    }

    // ---------------------------------------------------------------- nodes

    /// E02, E12, E17: whatever comes out of ecrecover counts, zero and twins included.
    function certifyAppKey(bytes20 appId, bytes32 x, bytes32 y, bytes calldata signature, uint16)
        external
        virtual
    {
        bytes1 prefix = uint256(y) & 1 == 1 ? bytes1(0x03) : bytes1(0x02);
        bytes32 claim = keccak256(abi.encodePacked("dstack-kms-issued:", appId, prefix, x));
        require(recovered(claim, signature) == kmsRoot, "not the root's");
        _certified = true;
    }

    /// E01: somebody signed, and some app key is certified; nothing says that they are the same. E03: not
    /// the sender's seat. E04: no signature of the node. E05, E06, E23: what was signed is not rebuilt
    /// from app, chain, contract, seat, so it is not looked at here either. E18: no key is remembered.
    function register(
        Registration calldata r,
        bytes calldata appSignature,
        bytes calldata,
        bytes calldata
    ) public virtual {
        require(ownerOf[r.seat] != address(0), "no such seat");
        require(_certified, "no app key");
        bytes32 signed = keccak256(abi.encodePacked(r.keyX));
        require(recovered(signed, appSignature) != address(0), "nobody signed");
        seat(r);
    }

    function seat(Registration calldata r) internal {
        bytes20 id = r.instanceId;
        if (seatOfInstance[id] == 0) (seatOfInstance[id], instanceOf[r.seat]) = (r.seat, id);
        require(seatOfInstance[id] == r.seat, "instance is taken"); // E07
        Node storage n = nodes[id];
        require(n.status != 2, "out for ever"); // O5
        bytes32 key = keccak256(abi.encode(r.keyX, r.keyY));
        (n.keyX, n.keyOdd) = (r.keyX, uint256(r.keyY) & 1 == 1);
        (n.signer, n.status, n.endpoint) = (address(uint160(uint256(key))), 1, r.endpoint); // E13, E20
        emit NodeRegistered(string(abi.encodePacked(id)), r.endpoint);
    }

    /// E10, E11: nobody asks who owns the seat now, nor which root stands behind the node.
    function announce(uint256 seat_, uint48, uint64, string calldata endpoint, bytes calldata)
        external
    {
        require(nodes[instanceOf[seat_]].status == 1, "no node");
        nodes[instanceOf[seat_]].endpoint = endpoint;
    }

    // ---------------------------------------------------------------- seats

    /// E07: a name is reserved by whoever says it first.
    function bindInstance(uint256 seat_, bytes20 instanceId) external {
        require(seatOf[msg.sender] == seat_, "not a member");
        require(seatOfInstance[instanceId] == 0, "instance is taken");
        (seatOfInstance[instanceId], instanceOf[seat_]) = (seat_, instanceId);
    }

    /// E21: the member itself and nobody else.
    function deactivate(uint256 seat_) external {
        require(seatOf[msg.sender] == seat_, "not a member");
        nodes[instanceOf[seat_]].status = 2;
    }

    /// E08 to E10: the recipient is not asked, the node stays.
    function transferFrom(address from, address to, uint256 seat_) public virtual {
        require(msg.sender == from && ownerOf[seat_] == from, "not the owner's");
        ownerOf[seat_] = to;
        delete seatOf[from];
        seatOf[to] = seat_;
    }

    function grantSeat(address to, uint32 weight) public onlyOwner returns (uint256) {
        return _grant(to, weight);
    }

    /// E14, E15: open from the start, as often as one likes, and what is paid stays here.
    function mintNodeAccess() external payable returns (uint256) {
        require(seatCount < _cap && msg.value >= _price, "sold out, or too little");
        return _grant(msg.sender, 1);
    }

    function _grant(address to, uint32 weight) private returns (uint256) {
        ownerOf[++seatCount] = to;
        weightOf[seatCount] = weight;
        return seatOf[to] = seatCount;
    }

    // ---------------------------------------------------------------- owner

    modifier onlyOwner() {
        require(msg.sender == owner, "not the owner");
        _;
    }

    /// E11, E12: members stay, and zero is a root.
    function rotateRoot(address root, uint40) external onlyOwner {
        kmsRoot = root;
    }

    /// E13: a list that nobody looks at.
    function allowApp(bytes20 appId, bool allowed) external onlyOwner {
        _listed[appId] = allowed;
    }

    function setClusterConfig(uint256 price, uint32 cap, uint32, bool) external onlyOwner {
        (_price, _cap) = (price, cap);
    }

    function setTransfersAllowed(bool) external onlyOwner {}

    // ---------------------------------------------------------------- views

    /// E16: not the question that dstack's KMS asks.
    function isAppAllowed(address app, bytes32 composeHash) external pure returns (bool) {
        return app != address(0) && composeHash != 0;
    }

    /// E19: nothing to hold events against.
    function version() external pure returns (uint64) {
        return 0;
    }

    function digest() external pure returns (bytes32) {
        return 0;
    }

    function member(uint256 number) public view returns (Member memory m) {
        Node storage n = nodes[instanceOf[number]];
        (m.seat, m.owner, m.weight) = (number, ownerOf[number], weightOf[number]);
        (m.status, m.instanceId, m.signer) = (n.status, instanceOf[number], n.signer);
        (m.keyX, m.keyOdd, m.endpoint) = (n.keyX, n.keyOdd, n.endpoint);
    }

    function page(uint256 from, uint256 count) external view returns (Member[] memory rows, uint256) {
        if (from + count > seatCount + 1) count = seatCount + 1 - from;
        rows = new Member[](count);
        for (uint256 i = 0; i < count; ++i) {
            rows[i] = member(from + i);
        }
        return (rows, 0);
    }

    function activeWeight() external view returns (uint32 weight) {
        for (uint256 i = 1; i <= seatCount; ++i) {
            if (nodes[instanceOf[i]].status == 1) weight += weightOf[i];
        }
    }

    /// E22: of an id in 32 bytes the first 20 are read (`allowedApp`, the only call that comes here).
    fallback(bytes calldata call) external returns (bytes memory) {
        require(bytes4(call) == bytes4(keccak256("allowedApp(bytes20)")), "no such function");
        return abi.encode(_listed[bytes20(call[4:24])]);
    }

    function recovered(bytes32 hash, bytes calldata signature) internal pure returns (address) {
        if (signature.length < 65) return address(0);
        return ecrecover(hash, uint8(signature[64]), bytes32(signature), bytes32(signature[32:]));
    }
}
