// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IERC721} from "@openzeppelin/contracts/token/ERC721/IERC721.sol";

import {IAnnex} from "../src/IAnnex.sol";
import {IRegistry} from "../src/IRegistry.sol";
import {Cheats, Vm} from "./Cheats.sol";

/// All that a deployed registry answers to.
interface IDeployed is IRegistry, IAnnex, IERC721 {
    function owner() external view returns (address);
    function pendingOwner() external view returns (address);
    function transferOwnership(address) external;
    function acceptOwnership() external;
    function renounceOwnership() external;
    function guardian() external view returns (address);
    function paused() external view returns (bool);
    function maxSeats() external view returns (uint32);
    function leaseDuration() external view returns (uint40);
    function transfersAllowed() external view returns (bool);
    function annex() external view returns (address);
}

/// A registry on an empty chain, and honest parties that sign as dstack and our daemon do. All
/// texts and hashes are rebuilt here in another way than in `src`, so a shared mistake shows.
abstract contract Fixture is Cheats {
    uint32 internal constant SEATS_MAX = 20;
    uint40 internal constant LEASE = 7 days;
    uint40 internal constant RECOVERY_DELAY = 2 days;
    bytes20 internal constant APP = bytes20(hex"a9019d1b2c3d4e5f60718293a4b5c6d7e8f90a1b");

    uint256 internal constant ROOT_SECRET = 0xA11CE;
    uint256 internal constant APP_SECRET = 0xA44;
    address internal constant OWNER = address(0x0E12);
    address internal constant GUARDIAN = address(0x6A12);
    address internal constant STRANGER = address(0x5712);
    uint256 internal constant ALICE_SECRET = 0xA01;
    uint256 internal constant BOB_SECRET = 0xB0B;
    uint256 internal constant NODE1 = 0x111;
    uint256 internal constant NODE2 = 0x222;
    bytes20 internal constant INSTANCE1 = bytes20(hex"1111111111111111111111111111111111111111");
    bytes20 internal constant INSTANCE2 = bytes20(hex"2222222222222222222222222222222222222222");

    string internal constant ENDPOINT = "/ip4/192.0.2.17/tcp/4001";

    IDeployed internal reg;
    address internal alice;
    address internal bob;
    Vm.Wallet internal appWallet;

    struct Proof {
        IRegistry.Registration r;
        bytes appSignature;
        bytes nodeSignature;
    }

    function setUp() public virtual {
        vm.warp(1_800_000_000);
        vm.roll(1000);
        alice = vm.addr(ALICE_SECRET);
        bob = vm.addr(BOB_SECRET);
        reg = deploy();
        appWallet = vm.createWallet(APP_SECRET);
        certify(reg, APP, appWallet, ROOT_SECRET, 1);
        vm.prank(OWNER);
        reg.allowApp(APP, true);
    }

    function deploy() internal returns (IDeployed) {
        return deployWith(OWNER, GUARDIAN, vm.addr(ROOT_SECRET), SEATS_MAX, LEASE);
    }

    function deployWith(
        address owner,
        address guardian,
        address kmsRoot,
        uint32 maxSeats,
        uint40 lease
    ) internal returns (IDeployed) {
        // by name and not by `new`: the big contract is compiled once, not into every test
        return IDeployed(
            vm.deployCode(
                "Registry.sol:Registry",
                abi.encode(owner, guardian, kmsRoot, maxSeats, lease, RECOVERY_DELAY)
            )
        );
    }

    // ------------------------------------------------------- honest parties

    function grant(address to, uint32 weight) internal returns (uint256 seat) {
        vm.prank(OWNER);
        return reg.grantSeat(to, weight);
    }

    /// With whoever votes now.
    function launch() internal {
        bytes32 founders = voters();
        vm.prank(OWNER);
        reg.launch(founders);
    }

    function voters() internal view returns (bytes32 digest) {
        (,, digest) = reg.lastChange();
    }

    function certify(
        IDeployed at,
        bytes20 appId,
        Vm.Wallet memory key,
        uint256 rootSecret,
        uint16 epoch
    ) internal {
        at.certifyAppKey(
            appId,
            bytes32(key.publicKeyX),
            bytes32(key.publicKeyY),
            sign(rootSecret, kmsClaim(appId, key)),
            epoch
        );
    }

    /// A node that does everything right; tests spoil one thing.
    function proof(uint256 seat, uint256 nodeSecret, bytes20 instanceId, uint48 incarnation)
        internal
        returns (Proof memory p)
    {
        return proofOf(reg, seat, nodeSecret, instanceId, incarnation, 0, ENDPOINT);
    }

    function proofOf(
        IDeployed at,
        uint256 seat,
        uint256 nodeSecret,
        bytes20 instanceId,
        uint48 incarnation,
        uint8 scheme,
        string memory endpoint
    ) internal returns (Proof memory p) {
        Vm.Wallet memory key = vm.createWallet(nodeSecret);
        p.r = IRegistry.Registration({
            seat: seat,
            keyX: bytes32(key.publicKeyX),
            keyY: bytes32(key.publicKeyY),
            instanceId: instanceId,
            scheme: scheme,
            incarnation: incarnation,
            deadline: uint64(time() + 10 minutes),
            endpoint: endpoint
        });
        bytes memory text = purposeText(at, seat, instanceId);
        p.appSignature = sign(APP_SECRET, claimOf(scheme, text, key));
        p.nodeSignature = signRegister(at, nodeSecret, p.r);
    }

    function enlist(
        uint256 seat,
        address owner,
        uint256 nodeSecret,
        bytes20 instanceId,
        uint48 incarnation
    ) internal {
        Proof memory p = proof(seat, nodeSecret, instanceId, incarnation);
        vm.prank(owner);
        reg.register(p.r, p.appSignature, p.nodeSignature, "");
    }

    function send(Proof memory p) internal {
        reg.register(p.r, p.appSignature, p.nodeSignature, "");
    }

    function announceAs(
        uint256 nodeSecret,
        uint256 seat,
        uint48 incarnation,
        string memory endpoint
    ) internal {
        uint64 deadline = uint64(block.timestamp + 10 minutes);
        bytes memory signature =
            signAnnounce(reg, nodeSecret, seat, incarnation, deadline, endpoint);
        reg.announce(seat, incarnation, deadline, endpoint, signature);
    }

    /// A seat changes hands when it answers for no key any more.
    function sell(uint256 seat, address from, address to) internal {
        if (reg.member(seat).status == 1) {
            vm.prank(from);
            reg.deactivate(seat);
        }
        vm.warp(time() + reg.evidenceWindow());
        vm.prank(OWNER);
        reg.setTransfersAllowed(true);
        vm.prank(from);
        reg.transferFrom(from, to, seat);
    }

    /// The compiler takes block.timestamp for a constant.
    function time() internal view returns (uint256) {
        return vm.getBlockTimestamp();
    }

    // ------------------------------------------------- texts and signatures

    function sign(uint256 secret, bytes32 hash) internal pure returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(secret, hash);
        return abi.encodePacked(r, s, v);
    }

    /// The other signature of the same text that anyone can compute: (r, n - s, other v).
    function twin(bytes memory signature) internal pure returns (bytes memory) {
        (bytes32 r, uint256 s) = abi.decode(signature, (bytes32, uint256));
        uint8 v = uint8(signature[64]) == 27 ? 28 : 27;
        uint256 order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141;
        return abi.encodePacked(r, order - s, v);
    }

    function slowHex(bytes memory data) internal pure returns (bytes memory out) {
        bytes16 digits = "0123456789abcdef";
        out = new bytes(data.length * 2);
        for (uint256 i = 0; i < data.length; ++i) {
            out[2 * i] = digits[uint8(data[i]) >> 4];
            out[2 * i + 1] = digits[uint8(data[i]) & 15];
        }
    }

    function compressed(Vm.Wallet memory key) internal pure returns (bytes memory) {
        return
            abi.encodePacked(key.publicKeyY % 2 == 0 ? bytes1(0x02) : bytes1(0x03), key.publicKeyX);
    }

    function kmsClaim(bytes20 appId, Vm.Wallet memory key) internal pure returns (bytes32) {
        return keccak256(bytes.concat("dstack-kms-issued:", appId, compressed(key)));
    }

    function purposeText(IDeployed at, uint256 seat, bytes20 instanceId)
        internal
        view
        returns (bytes memory)
    {
        bytes memory words = bytes.concat(
            bytes32(block.chainid),
            bytes32(uint256(uint160(address(at)))),
            bytes32(seat),
            instanceId,
            bytes12(0)
        );
        return bytes.concat("dstack-cluster-node-v1/", slowHex(bytes.concat(keccak256(words))));
    }

    function lengthPrefixed(bytes memory field) internal pure returns (bytes memory) {
        return bytes.concat(bytes4(uint32(field.length)), field);
    }

    function claimOf(uint8 scheme, bytes memory text, Vm.Wallet memory key)
        internal
        pure
        returns (bytes32)
    {
        bytes memory key33 = compressed(key);
        if (scheme == 0) return keccak256(bytes.concat(text, ":", slowHex(key33)));
        return keccak256(
            bytes.concat(
                lengthPrefixed("dstack-guest-v1-key-claim"),
                lengthPrefixed("secp256k1"),
                lengthPrefixed(text),
                lengthPrefixed(key33)
            )
        );
    }

    function typedHash(IDeployed at, bytes memory structure) internal view returns (bytes32) {
        bytes32 domain = keccak256(
            abi.encode(
                keccak256(
                    "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
                ),
                keccak256("dstack-cluster"),
                keccak256("1"),
                block.chainid,
                address(at)
            )
        );
        return keccak256(bytes.concat(hex"1901", domain, keccak256(structure)));
    }

    function signRegister(IDeployed at, uint256 secret, IRegistry.Registration memory r)
        internal
        view
        returns (bytes memory)
    {
        bytes32 typeHash = keccak256(
            "Register(uint256 seat,bytes32 keyX,bool keyOdd,bytes20 instanceId,uint8 scheme,uint48 incarnation,uint64 deadline,string endpoint)"
        );
        return sign(
            secret,
            typedHash(
                at,
                abi.encode(
                    typeHash,
                    r.seat,
                    r.keyX,
                    uint256(r.keyY) % 2 == 1,
                    r.instanceId,
                    r.scheme,
                    r.incarnation,
                    r.deadline,
                    keccak256(bytes(r.endpoint))
                )
            )
        );
    }

    function signAnnounce(
        IDeployed at,
        uint256 secret,
        uint256 seat,
        uint48 incarnation,
        uint64 deadline,
        string memory endpoint
    ) internal view returns (bytes memory) {
        bytes32 typeHash = keccak256(
            "Announce(uint256 seat,uint48 incarnation,uint64 deadline,string endpoint)"
        );
        return sign(
            secret,
            typedHash(
                at, abi.encode(typeHash, seat, incarnation, deadline, keccak256(bytes(endpoint)))
            )
        );
    }

    function signAuthorize(uint256 secret, uint256 seat, bytes20 instanceId, uint64 deadline)
        internal
        view
        returns (bytes memory)
    {
        bytes32 typeHash = keccak256("Authorize(uint256 seat,bytes20 instanceId,uint64 deadline)");
        return abi.encode(
            deadline, sign(secret, typedHash(reg, abi.encode(typeHash, seat, instanceId, deadline)))
        );
    }
}
