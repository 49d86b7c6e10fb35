// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {ICertificates} from "../src/ICertificates.sol";
import {IRegistry} from "../src/IRegistry.sol";
import {CourtFixture} from "./CourtFixture.sol";

/// A cluster whose members change all the time, and whose keys sign whatever they are asked to, in
/// any company: forge calls these in any order with any numbers. What each certificate was worth is
/// kept here in another way than in `src`: by copies of all rows after each change.
contract Cluster is CourtFixture {
    uint256 internal constant SEATS = 6;
    uint8 internal constant EVERYBODY = 0x3f;
    /// Half of the time all sign, or the cluster would never get anywhere.
    uint8 internal constant UNANIMOUS = 128;

    struct Row {
        address signer;
        uint32 weight;
    }

    uint256 public led;
    uint256 public deposed;
    uint256 public opened;
    /// Somebody acted whose signers had not the weight for it.
    bool public usurped;
    /// An epoch counts by a state that its chain block did not end with.
    bool public misbound;

    uint64 public epoch;
    bytes32 public leaderHash;
    /// Version to which an epoch is bound, and what all rows of a version weigh together.
    mapping(uint64 epoch => uint64) public bound;
    mapping(uint64 version => uint256) public total;

    uint64 private _term = 1;
    uint64 private _index;
    uint64[] private _changes;
    mapping(uint64 version => uint64) private _changedIn;
    mapping(uint64 version => mapping(uint256 seat => Row)) private _rows;
    mapping(uint256 seat => uint256) private _secret;
    uint256 private _block = 10_000; // the compiler takes block.number for a constant
    uint256 private _time = 1_900_000_000;

    constructor() {
        setUp();
        vm.warp(_time);
        vm.roll(_block);
        crowd(SEATS, true);
        for (uint256 seat = 1; seat <= SEATS; ++seat) {
            _secret[seat] = secret(seat);
        }
        _copy();
        bound[0] = _changes[0];
    }

    function parties() external view returns (IRegistry, ICertificates) {
        return (reg, court);
    }

    modifier copied() {
        _;
        _copy();
    }

    // ------------------------------------------------------- certificates

    function lead(uint8 company, uint8 trick, uint8 proposer, bool newTerm) external {
        Head memory h =
            head(epoch, newTerm ? _term + 1 : _term, _index + 1, 1 + proposer % uint64(SEATS));
        bytes32 hash = voteHash(FINALIZE, h.epoch, h.term, h.index, hashOf(h));
        (bytes memory parts, uint256 weight) = _sign(company, trick, bound[epoch], hash);
        try court.recordLeader(encode(h), parts) {
            ++led;
            (_term, _index, leaderHash) = (h.term, h.index, hashOf(h));
            if (3 * weight <= 2 * total[bound[epoch]]) usurped = true;
        } catch {}
    }

    function depose(uint8 accusers, uint8 followers, uint8 trick) external copied {
        (uint64 e, uint64 term,,,) = court.leader();
        if (trick >= UNANIMOUS) accusers = EVERYBODY;
        followers &= ~accusers;
        uint256 accusing;
        uint256 weight;
        bytes memory parts;
        for (uint256 seat = 1; seat <= SEATS; ++seat) {
            bool accuses = accusers >> (seat - 1) & 1 == 1;
            if (!accuses && followers >> (seat - 1) & 1 == 0) continue;
            uint8 reason = accuses ? NO_PROPOSAL : JOINED;
            bytes32 hash = voteHash(NULLIFY, e, term, 0, bytes32(uint256(reason)));
            parts = bytes.concat(parts, _part(seat, reason, hash));
            weight += _worth(bound[e], seat);
            if (accuses) accusing += _worth(bound[e], seat);
            if (trick % 8 == seat) parts = bytes.concat(parts, _part(seat, reason, hash));
        }
        uint32 before = reg.activeWeight();
        try court.depose(e, term, 0, parts, "", 0, 0) {
            ++deposed;
            uint256 all = total[bound[e]];
            if (3 * weight <= 2 * all || 3 * accusing <= all) usurped = true;
            uint32 left = reg.activeWeight();
            if (left != before && 3 * uint256(left) <= 2 * all) usurped = true;
        } catch {}
    }

    function openEpoch(uint8 company, uint8 trick, uint8 pick, bool last) external {
        uint256 place = _changes.length - 1;
        // sometimes one of the few changes before the last
        if (pick % 2 == 0) place -= uint256(pick) / 2 % (place < 4 ? place + 1 : 4);
        uint64 version = _changes[place];
        uint64 next = last || place + 1 == _changes.length ? 0 : _changes[place + 1];
        bytes memory body = bodyOf(hex"90", epoch + 1, _changedIn[version], SEATS);
        Head memory end = head(epoch, _term, _index + 1, 1);
        end.bodyHash = bodyHashOf(body);
        Head memory h = head(epoch + 1, 1, 0, 1);
        h.parent = hashOf(end);
        bytes32 hash = voteHash(FINALIZE, h.epoch, h.term, h.index, hashOf(h));
        (bytes memory parts, uint256 weight) = _sign(company, trick, version, hash);
        try court.openEpoch(encode(end), body, encode(h), parts, version, next) {
            ++opened;
            ++epoch;
            (_term, _index) = (1, 0);
            bound[epoch] = version;
            if (3 * weight <= 2 * total[version]) usurped = true;
            for (uint256 i = place + 1; i < _changes.length; ++i) {
                if (_changedIn[_changes[i]] == _changedIn[version]) misbound = true;
            }
        } catch {}
    }

    // ------------------------------------------------------------- members

    function register(uint256 seat, bool anotherKey) external copied {
        seat = 1 + seat % SEATS;
        uint256 key = anotherKey ? _secret[seat] + 0x100 : _secret[seat];
        uint48 incarnation = reg.member(seat).incarnation + 1;
        Proof memory p = proof(seat, key, bytes20(uint160(key)), incarnation);
        vm.prank(_ownerOf(seat));
        try reg.register(p.r, p.appSignature, p.nodeSignature, "") {
            _secret[seat] = key;
        } catch {}
    }

    function deactivate(uint256 seat) external copied {
        seat = 1 + seat % SEATS;
        vm.prank(_ownerOf(seat));
        try reg.deactivate(seat) {} catch {}
    }

    function reweigh(uint256 seat, uint32 weight) external copied {
        seat = 1 + seat % SEATS;
        vm.prank(OWNER);
        reg.setWeight(seat, 1 + weight % 3);
    }

    function transfer(uint256 seat, uint256 to) external copied {
        seat = 1 + seat % SEATS;
        vm.prank(OWNER);
        reg.setTransfersAllowed(true);
        address from = _ownerOf(seat);
        vm.prank(from);
        try reg.transferFrom(from, wallet(100 + to % SEATS), seat) {} catch {}
    }

    function policy(bool suspend) external {
        ICertificates.Effect effect =
            suspend ? ICertificates.Effect.SUSPEND : ICertificates.Effect.MARK;
        vm.prank(OWNER);
        court.setPolicy(ICertificates.Policy(effect, effect, 1 hours, 1 hours, 3));
    }

    function time(uint32 seconds_) external {
        _time += seconds_ % (1 days);
        _block += 1 + seconds_ % 100;
        vm.warp(_time);
        vm.roll(_block);
    }

    // ----------------------------------------------------------- accounting

    /// Parts of a company of seats, sometimes with one twice or one in another's name, and what the
    /// company is worth: nobody twice, nobody for another.
    function _sign(uint8 company, uint8 trick, uint64 version, bytes32 hash)
        private
        view
        returns (bytes memory parts, uint256 weight)
    {
        if (trick >= UNANIMOUS) company = EVERYBODY;
        for (uint256 seat = 1; seat <= SEATS; ++seat) {
            if (company >> (seat - 1) & 1 == 0) continue;
            parts = bytes.concat(parts, _part(seat, 0, hash));
            weight += _worth(version, seat);
            if (trick % 8 == seat) parts = bytes.concat(parts, _part(seat, 0, hash));
        }
        if (trick % 8 != 7) return (parts, weight);
        (bytes32 r, bytes32 vs) = compact(_secret[1], hash);
        parts = bytes.concat(
            parts, abi.encodePacked(uint32(SEATS + 1 - trick % SEATS), uint8(0), r, vs)
        );
    }

    function _part(uint256 seat, uint8 reason, bytes32 hash) private view returns (bytes memory) {
        (bytes32 r, bytes32 vs) = compact(_secret[seat], hash);
        return abi.encodePacked(uint32(seat), reason, r, vs);
    }

    /// With what a seat counts: what it weighed then, as long as it is what it was.
    function _worth(uint64 version, uint256 seat) private view returns (uint256) {
        Row memory then_ = _rows[version][seat];
        IRegistry.Member memory now_ = reg.member(seat);
        bool same = now_.status == 1 && now_.signer == then_.signer && now_.weight == then_.weight;
        return same ? then_.weight : 0;
    }

    function _copy() private {
        (uint64 changedIn, uint64 version,) = reg.lastChange();
        if (_changedIn[version] != 0) return;
        _changedIn[version] = changedIn;
        _changes.push(version);
        for (uint256 seat = 1; seat <= SEATS; ++seat) {
            IRegistry.Member memory m = reg.member(seat);
            if (m.status != 1) continue;
            _rows[version][seat] = Row(m.signer, m.weight);
            total[version] += m.weight;
        }
    }

    function _ownerOf(uint256 seat) private view returns (address) {
        return reg.ownerOf(seat);
    }
}

/// What holds of the cluster's certificates after every call, whatever was called before.
contract QuorumInvariantsTest is CourtFixture {
    struct FuzzSelector {
        address addr;
        bytes4[] selectors;
    }

    Cluster internal cluster;

    function setUp() public override {
        cluster = new Cluster();
        (, court) = cluster.parties();
        uint8 unanimous = 128;
        cluster.lead(0, unanimous, 0, false);
        cluster.depose(0, 0, unanimous);
        cluster.reweigh(1, 1);
        cluster.openEpoch(0, unanimous, 1, true);
        cluster.policy(true);
        eq(cluster.led() + cluster.deposed() + cluster.opened(), 3, "a cluster that can act");
    }

    function targetContracts() external view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(cluster);
    }

    function targetSelectors() external view returns (FuzzSelector[] memory targets) {
        targets = new FuzzSelector[](1);
        bytes4[] memory s = new bytes4[](12);
        (s[0], s[1], s[2]) =
        (Cluster.lead.selector, Cluster.depose.selector, Cluster.openEpoch.selector);
        (s[3], s[4], s[5]) =
        (Cluster.register.selector, Cluster.deactivate.selector, Cluster.reweigh.selector);
        (s[6], s[7], s[8]) =
        (Cluster.transfer.selector, Cluster.policy.selector, Cluster.time.selector);
        // twice as likely as the rest
        (s[9], s[10], s[11]) =
        (Cluster.lead.selector, Cluster.depose.selector, Cluster.openEpoch.selector);
        targets[0] = FuzzSelector(address(cluster), s);
    }

    function invariant_nobody_acts_without_more_than_two_thirds() public view {
        yes(!cluster.usurped(), "signers without the weight");
        (,,,, bytes32 hash) = court.leader();
        eq(hash, cluster.leaderHash(), "the leader changes by certificates only");
    }

    function invariant_an_epoch_counts_by_the_state_that_it_names() public view {
        yes(!cluster.misbound(), "not the end of its chain block");
        for (uint64 epoch = 0; epoch <= cluster.epoch(); ++epoch) {
            (uint64 version, uint32 weight,) = court.snapshot(epoch);
            eq(version, cluster.bound(epoch), "version");
            eq(weight, cluster.total(version), "weight");
        }
    }
}
