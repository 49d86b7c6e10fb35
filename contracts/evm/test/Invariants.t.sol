// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IRegistry} from "../src/IRegistry.sol";
import {Vm} from "./Cheats.sol";
import {Fixture, IDeployed} from "./Fixture.sol";

/// Everybody at once, right and wrong: forge calls these in any order with any numbers. Small
/// pools of wallets, keys and instances, so that they collide.
contract Crowd is Fixture {
    uint256 internal constant WALLETS = 6;
    uint256 internal constant INSTANCES = 5;
    uint256 public constant KEYS = 18;

    bytes32 public replayedDigest;
    uint64 public replayedVersion;
    bool public digestGap;
    bool public incarnationFell;
    bool public historyChanged;
    uint256 public registered;

    /// What a follower of events takes for the last change of who votes.
    uint256 public changedBlock;
    uint64 public changedVersion;
    bytes32 public changedDigest;
    mapping(bytes32 seat => bytes32) private _say;

    /// Who owned the seat of a key when it last had a vote there.
    mapping(address key => address) public sat;

    mapping(uint256 seat => uint48) private _incarnationMax;
    uint48[] private _pastBlocks;
    mapping(uint48 blockNumber => uint32) private _pastTotal;

    constructor() {
        vm.recordLogs();
        setUp();
    }

    function registry() external view returns (IDeployed) {
        return reg;
    }

    /// Runs one call as somebody, then follows the events as a light client does.
    modifier followed() {
        _;
        Vm.Log[] memory logs = vm.getRecordedLogs();
        for (uint256 i = 0; i < logs.length; ++i) {
            if (logs[i].topics[0] == IRegistry.NodeChanged.selector) _replay(logs[i]);
        }
        uint256 last = reg.seatCount();
        for (uint256 seat = 1; seat <= last; ++seat) {
            try reg.member(seat) returns (IRegistry.Member memory m) {
                if (m.incarnation < _incarnationMax[seat]) incarnationFell = true;
                _incarnationMax[seat] = m.incarnation;
                if (m.status == 1) sat[m.signer] = m.owner;
            } catch {}
        }
    }

    function grantSeat(uint256 who, uint32 weight) external followed {
        vm.prank(OWNER);
        try reg.grantSeat(_wallet(who), weight % 1000) {} catch {}
    }

    function registerNode(
        uint256 seat,
        uint256 key,
        uint256 instance,
        uint8 scheme,
        uint8 step,
        uint8 sender
    ) external followed {
        seat = _seat(seat);
        uint48 incarnation = _incarnation(seat) + step % 4;
        Proof memory p = proofOf(
            reg,
            seat,
            _key(seat, key),
            bytes20(uint160(1 + instance % INSTANCES)),
            incarnation,
            scheme % 2,
            ENDPOINT
        );
        // most often the seat owner, sometimes anybody
        vm.prank(sender % 4 == 0 ? STRANGER : _ownerOf(seat));
        try reg.register(p.r, p.appSignature, p.nodeSignature, "") {
            ++registered;
        } catch {}
    }

    function announce(uint256 seat, uint256 key, uint8 step) external followed {
        seat = _seat(seat);
        uint48 incarnation = _incarnation(seat) + step % 4;
        uint64 deadline = uint64(block.timestamp + 60);
        bytes memory signature =
            signAnnounce(reg, _key(seat, key), seat, incarnation, deadline, ENDPOINT);
        try reg.announce(seat, incarnation, deadline, ENDPOINT, signature) {} catch {}
    }

    function bindInstance(uint256 seat, uint256 instance) external followed {
        seat = _seat(seat);
        vm.prank(_ownerOf(seat));
        try reg.bindInstance(seat, bytes20(uint160(instance % (INSTANCES + 1)))) {} catch {}
    }

    function deactivate(uint256 seat, uint256 who) external followed {
        seat = _seat(seat); // before the prank, which counts for the next call only
        vm.prank(who % 3 == 0 ? GUARDIAN : _wallet(who));
        try reg.deactivate(seat) {} catch {}
    }

    function setWeight(uint256 seat, uint32 weight) external followed {
        seat = _seat(seat);
        vm.prank(OWNER);
        try reg.setWeight(seat, weight % 1000) {} catch {}
    }

    function burnSeat(uint256 seat) external followed {
        seat = _seat(seat);
        vm.prank(OWNER);
        try reg.burnSeat(seat) {} catch {}
    }

    function transfer(uint256 seat, uint256 to, bool allowed) external followed {
        seat = _seat(seat);
        vm.prank(OWNER);
        reg.setTransfersAllowed(allowed);
        address from = _ownerOf(seat);
        vm.prank(from);
        try reg.transferFrom(from, _wallet(to), seat) {} catch {}
    }

    function sweep(uint256 a, uint256 b) external followed {
        uint256[] memory seats = new uint256[](3);
        (seats[0], seats[1], seats[2]) = (_seat(a), _seat(b), _seat(a));
        reg.sweep(seats);
    }

    function allowApp(uint8 dice) external followed {
        vm.prank(OWNER);
        reg.allowApp(APP, dice % 4 != 0);
    }

    function rotateRoot(uint8 dice) external followed {
        if (dice % 4 != 0) return; // seldom, or no node would ever live
        vm.prank(OWNER);
        reg.rotateRoot(vm.addr(ROOT_SECRET), uint40(block.timestamp));
        certify(reg, APP, appWallet, ROOT_SECRET, reg.currentRootEpoch());
    }

    function time(uint32 seconds_) external {
        _pastBlocks.push(uint48(block.number));
        _pastTotal[uint48(block.number)] = reg.activeWeight();
        // now and then for as long as nobody would answer for who left before
        vm.warp(block.timestamp + (seconds_ % 8 == 7 ? 15 days : seconds_ % (3 days)));
        vm.roll(block.number + 1 + seconds_ % 100);
        for (uint256 i = 0; i < _pastBlocks.length; ++i) {
            if (reg.totalWeightAt(_pastBlocks[i]) != _pastTotal[_pastBlocks[i]]) {
                historyChanged = true;
            }
        }
    }

    function _replay(Vm.Log memory log) private {
        (
            uint64 version,
            bytes32 keyX,
            bool keyOdd,
            bytes20 instanceId,
            uint32 weight,
            uint8 status
        ) = abi.decode(log.data, (uint64, bytes32, bool, bytes20, uint32, uint8));
        if (version != replayedVersion + 1) digestGap = true;
        replayedVersion = version;
        replayedDigest = keccak256(
            abi.encode(
                replayedDigest,
                version,
                block.number,
                log.topics[1],
                keyX,
                keyOdd,
                instanceId,
                weight,
                status
            )
        );
        // a seat that votes, by its key and weight; the same for all that do not
        bytes32 say = status == 1 ? keccak256(abi.encode(keyX, keyOdd, weight)) : bytes32(0);
        if (say == _say[log.topics[1]]) return;
        _say[log.topics[1]] = say;
        (changedBlock, changedVersion, changedDigest) = (block.number, version, replayedDigest);
    }

    /// One of three keys that the seat has for itself while it is new, sometimes any.
    function _key(uint256 seat, uint256 key) private pure returns (uint256) {
        return 1 + (key % 4 == 0 ? key / 4 : 3 * seat + key % 3) % KEYS;
    }

    function _wallet(uint256 who) private pure returns (address) {
        return address(uint160(0x2000 + who % WALLETS));
    }

    function _seat(uint256 number) private view returns (uint256) {
        uint256 count = reg.seatCount();
        // the newest ones: burnt numbers at the low end are of little interest
        return count == 0 ? 1 : count - number % (count < 6 ? count : 6);
    }

    function _ownerOf(uint256 seat) private view returns (address owner) {
        try reg.ownerOf(seat) returns (address found) {
            owner = found;
        } catch {
            owner = STRANGER;
        }
    }

    function _incarnation(uint256 seat) private view returns (uint48 incarnation) {
        try reg.member(seat) returns (IRegistry.Member memory m) {
            incarnation = m.incarnation;
        } catch {}
    }
}

/// What holds after every call, whatever was called before.
contract InvariantsTest is Fixture {
    struct FuzzSelector {
        address addr;
        bytes4[] selectors;
    }

    Crowd internal crowd;

    function setUp() public override {
        crowd = new Crowd();
        reg = crowd.registry();
        for (uint256 i = 0; i < 4; ++i) {
            crowd.grantSeat(i, uint32(i + 1));
            crowd.registerNode(0, i, i, uint8(i), 1, 1);
        }
        eq(crowd.registered(), 4, "a crowd that can act");
    }

    /// Only through the crowd, which follows the events of every call.
    function targetContracts() external view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(crowd);
    }

    function targetSelectors() external view returns (FuzzSelector[] memory targets) {
        targets = new FuzzSelector[](1);
        bytes4[] memory s = new bytes4[](13);
        (s[0], s[1], s[2]) =
        (Crowd.grantSeat.selector, Crowd.announce.selector, Crowd.time.selector);
        (s[3], s[4], s[5]) =
        (Crowd.bindInstance.selector, Crowd.deactivate.selector, Crowd.setWeight.selector);
        (s[6], s[7], s[8]) =
        (Crowd.burnSeat.selector, Crowd.transfer.selector, Crowd.sweep.selector);
        (s[9], s[10]) = (Crowd.allowApp.selector, Crowd.rotateRoot.selector);
        // twice as likely as the rest
        (s[11], s[12]) = (Crowd.registerNode.selector, Crowd.registerNode.selector);
        targets[0] = FuzzSelector(address(crowd), s);
    }

    function invariant_the_active_weight_is_the_sum_over_active_seats() public view {
        IRegistry.Member[] memory rows = everybody();
        (uint256 active, uint256 granted) = (0, 0);
        for (uint256 i = 0; i < rows.length; ++i) {
            uint256 counts = rows[i].status == 1 ? rows[i].weight : 0;
            eq(reg.weightAt(rows[i].seat, uint48(block.number)), counts, "weight of the seat");
            active += counts;
            granted += rows[i].weight;
        }
        eq(reg.activeWeight(), active, "active");
        eq(reg.totalWeightAt(uint48(block.number)), active, "checkpoint");
        eq(reg.grantedWeight(), granted, "granted");
    }

    function invariant_one_node_per_seat_key_instance_and_wallet() public view {
        IRegistry.Member[] memory rows = everybody();
        for (uint256 i = 0; i < rows.length; ++i) {
            IRegistry.Member memory a = rows[i];
            yes(a.status == 0 || (a.signer != address(0) && a.instanceId != 0), "a node has a key");
            yes(a.status != 0 || (a.signer == address(0) && a.instanceId == 0), "empty is empty");
            for (uint256 j = 0; j < i; ++j) {
                IRegistry.Member memory b = rows[j];
                yes(a.owner != b.owner, "one seat per wallet");
                yes(a.signer == address(0) || a.signer != b.signer, "one seat per key");
                yes(a.instanceId == 0 || a.instanceId != b.instanceId, "one seat per instance");
            }
        }
    }

    function invariant_nobody_answers_for_a_key_of_another_owner() public view {
        for (uint256 secret = 1; secret <= crowd.KEYS(); ++secret) {
            (uint32 seat,,,,) = reg.answers(vm.addr(secret));
            if (seat == 0) continue;
            try reg.ownerOf(seat) returns (address owner) {
                eq(owner, crowd.sat(vm.addr(secret)), "who owned it when the key had a vote");
            } catch {} // burnt
        }
    }

    function invariant_the_events_rebuild_version_and_digest() public view {
        eq(crowd.replayedDigest(), reg.digest(), "digest");
        eq(crowd.replayedVersion(), reg.version(), "version");
        yes(!crowd.digestGap(), "every version once, in order");
    }

    function invariant_the_last_change_is_what_the_events_say() public view {
        (uint64 blockNumber, uint64 version, bytes32 digest) = reg.lastChange();
        eq(blockNumber, crowd.changedBlock(), "block");
        eq(version, crowd.changedVersion(), "version");
        eq(digest, crowd.changedDigest(), "digest");
    }

    function invariant_numbers_only_rise_and_the_past_stands() public view {
        yes(!crowd.incarnationFell(), "incarnation");
        yes(!crowd.historyChanged(), "weights of past blocks");
        eq(address(reg).balance, 0, "money");
    }

    function everybody() private view returns (IRegistry.Member[] memory rows) {
        (rows,) = reg.page(1, type(uint256).max);
    }
}
