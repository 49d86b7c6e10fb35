// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";
import {Pausable} from "@openzeppelin/contracts/utils/Pausable.sol";

import {IRegistry} from "../src/IRegistry.sol";
import {Vm} from "./Cheats.sol";
import {Fixture, IDeployed} from "./Fixture.sol";

/// A seat owner that is a contract and approves one hash.
contract Wallet1271 {
    bytes32 private immutable _approved;

    constructor(bytes32 approved) {
        _approved = approved;
    }

    function isValidSignature(bytes32 hash, bytes calldata) external view returns (bytes4) {
        return hash == _approved ? this.isValidSignature.selector : bytes4(0);
    }
}

/// What each function does when all is well, and the rules that are no attack of their own.
contract RegistryTest is Fixture {
    uint256 internal constant NODE1 = 0x111;
    uint256 internal constant NODE2 = 0x222;
    bytes20 internal constant INSTANCE1 = bytes20(hex"1111111111111111111111111111111111111111");
    bytes20 internal constant INSTANCE2 = bytes20(hex"2222222222222222222222222222222222222222");

    // ------------------------------------------------------------ life of a node

    function test_a_granted_seat_is_empty_and_weighs_nothing_yet() public {
        uint256 seat = grant(alice, 3);
        IRegistry.Member memory m = reg.member(seat);
        eq(seat, 1, "seat");
        eq(m.owner, alice, "owner");
        eq(m.weight, 3, "weight");
        eq(m.status, 0, "status");
        eq(reg.activeWeight(), 0, "active");
        eq(reg.grantedWeight(), 3, "granted");
        eq(reg.version(), 1, "version");
        eq(reg.ownerOf(seat), alice, "nft");
        eq(reg.domainSeparator(), domain(reg), "domain");
        eqText(reg.purposeOf(seat, INSTANCE1), string(purposeText(reg, seat, INSTANCE1)), "purpose");
    }

    function test_registration_fills_the_row_under_both_claim_schemes() public {
        for (uint8 scheme = 0; scheme < 2; ++scheme) {
            address to = scheme == 0 ? alice : bob;
            uint256 secret = scheme == 0 ? NODE1 : NODE2;
            bytes20 instanceId = scheme == 0 ? INSTANCE1 : INSTANCE2;
            uint256 seat = grant(to, 2);
            Proof memory p = proofOf(reg, seat, secret, instanceId, 5, scheme, ENDPOINT);
            vm.prank(to);
            send(p);
            IRegistry.Member memory m = reg.member(seat);
            eq(m.status, 1, "status");
            eq(m.scheme, scheme, "scheme");
            eq(m.signer, vm.addr(secret), "signer");
            eq(m.keyX, p.r.keyX, "x");
            yes(m.keyOdd == (uint256(p.r.keyY) % 2 == 1), "parity");
            eq(bytes32(m.instanceId), bytes32(instanceId), "instance");
            eq(m.incarnation, 5, "incarnation");
            eq(m.rootEpoch, 1, "epoch");
            eq(m.expiresAt, block.timestamp + LEASE, "lease");
            eqText(m.endpoint, ENDPOINT, "endpoint");
        }
        eq(reg.activeWeight(), 4, "active");
        eq(reg.totalWeightAt(uint48(block.number)), 4, "total now");
        eq(reg.totalWeightAt(uint48(block.number - 1)), 0, "total before");
    }

    function test_an_instance_that_the_owner_bound_registers_through_any_sender() public {
        uint256 seat = grant(alice, 1);
        vm.prank(alice);
        reg.bindInstance(seat, INSTANCE1);
        eq(bytes32(reg.boundInstance(seat)), bytes32(INSTANCE1), "bound");
        vm.prank(STRANGER);
        send(proof(seat, NODE1, INSTANCE1, 1));
        eq(reg.member(seat).status, 1, "active");

        Proof memory other = proof(seat, NODE2, INSTANCE2, 2);
        vm.prank(STRANGER);
        vm.expectRevert(IRegistry.NotAuthorized.selector);
        send(other);
    }

    function test_a_relayed_owner_signature_authorises_one_instance_until_its_deadline() public {
        uint256 seat = grant(alice, 1);
        Proof memory p = proof(seat, NODE1, INSTANCE1, 1);
        uint64 deadline = uint64(block.timestamp + 1 hours);

        bytes memory bobs = signAuthorize(BOB_SECRET, seat, INSTANCE1, deadline);
        vm.expectRevert(IRegistry.NotAuthorized.selector);
        reg.register(p.r, p.appSignature, p.nodeSignature, bobs);

        bytes memory forAnother = signAuthorize(ALICE_SECRET, seat, INSTANCE2, deadline);
        vm.expectRevert(IRegistry.NotAuthorized.selector);
        reg.register(p.r, p.appSignature, p.nodeSignature, forAnother);

        bytes memory tooLong = signAuthorize(ALICE_SECRET, seat, INSTANCE1, deadline + 1 days);
        vm.expectRevert(IRegistry.BadDeadline.selector);
        reg.register(p.r, p.appSignature, p.nodeSignature, tooLong);

        bytes memory over = signAuthorize(ALICE_SECRET, seat, INSTANCE1, uint64(block.timestamp));
        vm.expectRevert(IRegistry.BadDeadline.selector);
        reg.register(p.r, p.appSignature, p.nodeSignature, over);

        vm.expectRevert(IRegistry.NotAuthorized.selector);
        reg.register(p.r, p.appSignature, p.nodeSignature, hex"00");

        bytes memory good = signAuthorize(ALICE_SECRET, seat, INSTANCE1, deadline);
        reg.register(p.r, p.appSignature, p.nodeSignature, good);
        eq(reg.member(seat).status, 1, "active");
    }

    function test_a_seat_owner_that_is_a_contract_authorises_by_erc1271() public {
        uint64 deadline = uint64(block.timestamp + 1 hours);
        bytes32 typeHash = keccak256("Authorize(uint256 seat,bytes20 instanceId,uint64 deadline)");
        bytes32 hash = typedHash(reg, abi.encode(typeHash, uint256(1), INSTANCE1, deadline));
        uint256 seat = grant(address(new Wallet1271(hash)), 1);
        Proof memory p = proof(seat, NODE1, INSTANCE1, 1);
        bytes memory another = abi.encode(deadline - 1, bytes("approved"));
        vm.expectRevert(IRegistry.NotAuthorized.selector);
        reg.register(p.r, p.appSignature, p.nodeSignature, another);
        reg.register(p.r, p.appSignature, p.nodeSignature, abi.encode(deadline, bytes("approved")));
        eq(reg.member(seat).status, 1, "active");
    }

    function test_the_owner_registering_another_instance_withdraws_the_old_binding() public {
        uint256 seat = grant(alice, 1);
        vm.prank(alice);
        reg.bindInstance(seat, INSTANCE1);
        enlist(seat, alice, NODE1, INSTANCE1, 1);
        enlist(seat, alice, NODE2, INSTANCE2, 2);
        eq(reg.member(seat).signer, vm.addr(NODE2), "replaced");
        eq(reg.activeWeight(), 1, "counted once");
        Proof memory old = proof(seat, NODE1, INSTANCE1, 3);
        vm.prank(STRANGER);
        vm.expectRevert(IRegistry.NotAuthorized.selector);
        send(old);
        // the old key and instance are free for another seat
        uint256 second = grant(bob, 1);
        enlist(second, bob, NODE1, INSTANCE1, 1);
        eq(reg.activeWeight(), 2, "both");
    }

    function test_announce_renews_the_lease_and_changes_endpoint_and_incarnation() public {
        uint256 seat = grant(alice, 1);
        enlist(seat, alice, NODE1, INSTANCE1, 1);
        (uint64 version, bytes32 digest) = (reg.version(), reg.digest());
        vm.warp(block.timestamp + 3 days);
        vm.prank(STRANGER);
        announceAs(NODE1, seat, 2, "/dns4/node.example/tcp/4001");
        IRegistry.Member memory m = reg.member(seat);
        eq(m.expiresAt, block.timestamp + LEASE, "lease");
        eq(m.incarnation, 2, "incarnation");
        eqText(m.endpoint, "/dns4/node.example/tcp/4001", "endpoint");
        eq(reg.version(), version, "announcements are no change of the set");
        eq(reg.digest(), digest, "digest");
    }

    function test_announce_refuses_old_numbers_wrong_keys_and_seats_without_a_node() public {
        uint256 seat = grant(alice, 1);
        uint64 deadline = uint64(block.timestamp + 10 minutes);
        bytes memory good = signAnnounce(reg, NODE1, seat, 2, deadline, ENDPOINT);
        vm.expectRevert(IRegistry.NoNode.selector);
        reg.announce(seat, 2, deadline, ENDPOINT, good);
        enlist(seat, alice, NODE1, INSTANCE1, 1);
        bytes memory wrong = signAnnounce(reg, NODE2, seat, 2, deadline, ENDPOINT);
        vm.expectRevert(IRegistry.BadSignature.selector);
        reg.announce(seat, 2, deadline, ENDPOINT, wrong);
        vm.expectRevert(IRegistry.BadSignature.selector);
        reg.announce(seat, 2, deadline, "/ip4/203.0.113.9/tcp/1", good);
        reg.announce(seat, 2, deadline, ENDPOINT, good);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.BadIncarnation.selector, 2));
        reg.announce(seat, 2, deadline, ENDPOINT, good);
    }

    function test_deadlines_lie_in_the_next_day() public {
        uint256 seat = grant(alice, 1);
        Proof memory p = proof(seat, NODE1, INSTANCE1, 1);
        uint64[3] memory bad = [
            uint64(block.timestamp),
            uint64(block.timestamp - 1),
            uint64(block.timestamp + 1 days + 1)
        ];
        for (uint256 i = 0; i < bad.length; ++i) {
            p.r.deadline = bad[i];
            p.nodeSignature = signRegister(reg, NODE1, p.r);
            vm.prank(alice);
            vm.expectRevert(IRegistry.BadDeadline.selector);
            send(p);
        }
        p.r.deadline = uint64(block.timestamp + 1 days);
        p.nodeSignature = signRegister(reg, NODE1, p.r);
        vm.prank(alice);
        send(p);
        uint64 late = uint64(block.timestamp + 1 days + 1);
        bytes memory signature = signAnnounce(reg, NODE1, seat, 2, late, ENDPOINT);
        vm.expectRevert(IRegistry.BadDeadline.selector);
        reg.announce(seat, 2, late, ENDPOINT, signature);
    }

    function test_unknown_schemes_and_seats_are_refused() public {
        uint256 seat = grant(alice, 1);
        Proof memory p = proof(seat, NODE1, INSTANCE1, 1);
        p.r.scheme = 2;
        vm.prank(alice);
        vm.expectRevert(IRegistry.BadScheme.selector);
        send(p);
        p.r.scheme = 1; // the signature is one over the v0 claim
        vm.prank(alice);
        vm.expectRevert(IRegistry.BadAppKey.selector);
        send(p);
        p.r.seat = 2;
        vm.expectRevert(IRegistry.NoSuchSeat.selector);
        send(p);
        p.r.seat = 0;
        vm.expectRevert(IRegistry.NoSuchSeat.selector);
        send(p);
        vm.expectRevert(IRegistry.NoSuchSeat.selector);
        reg.member(2);
    }

    function test_a_key_that_is_no_point_of_the_curve_is_refused() public {
        uint256 seat = grant(alice, 1);
        Proof memory p = proof(seat, NODE1, INSTANCE1, 1);
        p.r.keyY = bytes32(uint256(p.r.keyY) ^ 2); // parity, and so every signed text, unchanged
        vm.prank(alice);
        vm.expectRevert(IRegistry.NotOnCurve.selector);
        send(p);
    }

    // ------------------------------------------------------- lease, sweep, weight

    function test_sweep_takes_expired_nodes_out_and_they_may_come_back() public {
        uint256 seat = grant(alice, 4);
        uint256 second = grant(bob, 1);
        enlist(seat, alice, NODE1, INSTANCE1, 1);
        vm.warp(block.timestamp + LEASE - 1);
        enlist(second, bob, NODE2, INSTANCE2, 1);
        uint256[] memory all = new uint256[](5);
        (all[0], all[1], all[2], all[3], all[4]) = (seat, seat, second, 0, 99);
        reg.sweep(all);
        eq(reg.activeWeight(), 5, "one second left");
        vm.warp(block.timestamp + 1);
        vm.roll(block.number + 10);
        uint64 version = reg.version();
        reg.sweep(all);
        eq(reg.version(), version + 1, "one change, though listed twice");
        eq(reg.activeWeight(), 1, "weight out");
        eq(reg.member(seat).status, 2, "inactive");
        eq(reg.weightAt(seat, uint48(block.number - 1)), 4, "history stays");
        eq(reg.weightAt(seat, uint48(block.number)), 0, "now");
        uint64 deadline = uint64(block.timestamp + 60);
        bytes memory signature = signAnnounce(reg, NODE1, seat, 2, deadline, ENDPOINT);
        vm.expectRevert(IRegistry.NoNode.selector);
        reg.announce(seat, 2, deadline, ENDPOINT, signature);
        enlist(seat, alice, NODE1, INSTANCE1, 2);
        eq(reg.activeWeight(), 5, "back");
    }

    function test_deactivate_is_for_seat_owner_guardian_and_contract_owner() public {
        uint256 seat = grant(alice, 1);
        address[3] memory may = [alice, GUARDIAN, OWNER];
        for (uint48 i = 0; i < 3; ++i) {
            enlist(seat, alice, NODE1, INSTANCE1, i + 1);
            vm.prank(STRANGER);
            vm.expectRevert(IRegistry.NotSeatOwner.selector);
            reg.deactivate(seat);
            vm.prank(may[i]);
            reg.deactivate(seat);
            eq(reg.member(seat).status, 2, "inactive");
            eq(reg.activeWeight(), 0, "weight");
            vm.warp(reg.member(seat).expiresAt > 0 ? reg.member(seat).expiresAt : block.timestamp);
        }
        vm.prank(alice);
        vm.expectRevert(IRegistry.NoNode.selector);
        reg.deactivate(seat);
    }

    function test_a_node_that_others_put_out_stays_out_for_a_lease_unless_the_owner_lifts_it()
        public
    {
        uint256 seat = grant(alice, 1);
        enlist(seat, alice, NODE1, INSTANCE1, 1);
        vm.prank(GUARDIAN);
        reg.deactivate(seat);
        uint40 until = uint40(block.timestamp) + LEASE;
        eq(reg.member(seat).expiresAt, until, "until");
        bytes memory reason = abi.encodeWithSelector(IRegistry.CoolingDown.selector, until);
        Proof memory p = proof(seat, NODE2, INSTANCE2, 2);
        vm.prank(alice);
        vm.expectRevert(reason);
        send(p);
        // selling the seat does not help
        vm.prank(OWNER);
        reg.setTransfersAllowed(true);
        vm.prank(alice);
        reg.transferFrom(alice, STRANGER, seat);
        vm.prank(STRANGER);
        vm.expectRevert(reason);
        send(p);
        vm.prank(GUARDIAN);
        vm.expectRevert(
            abi.encodeWithSelector(Ownable.OwnableUnauthorizedAccount.selector, GUARDIAN)
        );
        reg.liftSuspension(seat);
        vm.prank(OWNER);
        reg.liftSuspension(seat);
        enlist(seat, STRANGER, NODE2, INSTANCE2, 2);
        vm.prank(OWNER);
        vm.expectRevert(IRegistry.NoNode.selector);
        reg.liftSuspension(seat);
        // her own decision is hers to take back at once
        vm.prank(STRANGER);
        reg.deactivate(seat);
        enlist(seat, STRANGER, NODE1, INSTANCE1, 3);
    }

    function test_a_minter_grants_light_seats_only() public {
        address minter = address(0x3117);
        vm.prank(OWNER);
        reg.setMinter(minter, 2);
        vm.prank(minter);
        reg.grantSeat(alice, 2);
        vm.prank(minter);
        vm.expectRevert(IRegistry.NotMinter.selector);
        reg.grantSeat(bob, 3);
        vm.prank(minter);
        vm.expectRevert(IRegistry.BadWeight.selector);
        reg.grantSeat(bob, 0);
        vm.prank(OWNER);
        reg.setMinter(address(0), 0);
        vm.prank(minter);
        vm.expectRevert(IRegistry.NotMinter.selector);
        reg.grantSeat(bob, 1);
        (address named, uint32 most) = reg.minter();
        eq(named, address(0), "minter");
        eq(most, 0, "weight");
    }

    function test_only_the_contract_of_certificates_suspends() public {
        uint256 seat = grant(alice, 3);
        enlist(seat, alice, NODE1, INSTANCE1, 1);
        address court = address(0xC0);
        address rules = reg.rules();
        vm.prank(OWNER);
        reg.setCompanions(rules, court);
        eq(reg.certificates(), court, "named");
        vm.prank(OWNER);
        vm.expectRevert(IRegistry.NotCertificates.selector);
        reg.suspend(seat, type(uint40).max);
        vm.prank(court);
        reg.suspend(seat, type(uint40).max);
        eq(reg.activeWeight() + reg.activeSeats(), 0, "no weight");
        vm.prank(court);
        vm.expectRevert(IRegistry.NoNode.selector);
        reg.suspend(seat, 1);
    }

    function test_the_annex_does_nothing_on_its_own_and_hides_nothing() public {
        IDeployed annex = IDeployed(reg.annex());
        vm.expectRevert(IRegistry.NoSuchSeat.selector);
        annex.voteRecovery(1, 1, 1, bytes32(uint256(1)));
        (bool done,) = address(reg).call(hex"deadbeef");
        yes(!done, "what neither half knows is refused");
        (done,) = address(reg).call("");
        yes(!done, "and so is an empty call");
        eq(reg.recoveryDelay(), RECOVERY_DELAY, "an immutable of the annex");
    }

    function test_deactivate_withdraws_the_binding_so_the_node_cannot_return_by_itself() public {
        uint256 seat = grant(alice, 1);
        vm.prank(alice);
        reg.bindInstance(seat, INSTANCE1);
        send(proof(seat, NODE1, INSTANCE1, 1));
        vm.prank(alice);
        reg.deactivate(seat);
        Proof memory again = proof(seat, NODE1, INSTANCE1, 2);
        vm.expectRevert(IRegistry.NotAuthorized.selector);
        send(again);
    }

    function test_weights_change_at_once_and_history_remembers() public {
        uint256 seat = grant(alice, 2);
        enlist(seat, alice, NODE1, INSTANCE1, 1);
        vm.roll(2000);
        vm.prank(OWNER);
        reg.setWeight(seat, 9);
        eq(reg.activeWeight(), 9, "active");
        eq(reg.grantedWeight(), 9, "granted");
        eq(reg.weightAt(seat, 1999), 2, "before");
        eq(reg.weightAt(seat, 2000), 9, "after");
        eq(reg.totalWeightAt(1999), 2, "total before");
        vm.prank(OWNER);
        vm.expectRevert(IRegistry.BadWeight.selector);
        reg.setWeight(seat, 0);
        vm.prank(OWNER);
        vm.expectRevert(IRegistry.NoSuchSeat.selector);
        reg.setWeight(7, 1);
    }

    function test_the_sum_of_weights_fits_32_bits() public {
        uint256 seat = grant(alice, type(uint32).max - 1);
        grant(bob, 1);
        vm.prank(OWNER);
        vm.expectRevert(IRegistry.BadWeight.selector);
        reg.grantSeat(STRANGER, 1);
        vm.prank(OWNER);
        vm.expectRevert(IRegistry.BadWeight.selector);
        reg.setWeight(seat, type(uint32).max);
        enlist(seat, alice, NODE1, INSTANCE1, 1);
        enlist(2, bob, NODE2, INSTANCE2, 1);
        eq(reg.activeWeight(), type(uint32).max, "all");
        vm.prank(OWNER);
        vm.expectRevert(IRegistry.BadWeight.selector);
        reg.grantSeat(STRANGER, 0);
    }

    function test_a_burnt_seat_leaves_the_pages_and_its_number_is_not_used_again() public {
        uint256 seat = grant(alice, 5);
        grant(bob, 1);
        enlist(seat, alice, NODE1, INSTANCE1, 1);
        vm.prank(OWNER);
        reg.burnSeat(seat);
        eq(reg.activeWeight(), 0, "active");
        eq(reg.grantedWeight(), 1, "granted");
        eq(reg.seatCount(), 2, "count");
        (IRegistry.Member[] memory rows,) = reg.page(1, 10);
        eq(rows.length, 1, "rows");
        eq(rows[0].seat, 2, "row");
        eq(grant(alice, 1), 3, "next number");
        enlist(3, alice, NODE1, INSTANCE1, 1);
        vm.prank(OWNER);
        vm.expectRevert(IRegistry.NoSuchSeat.selector);
        reg.burnSeat(seat);
    }

    function test_pages_cover_every_seat_once() public {
        for (uint160 i = 1; i <= 7; ++i) {
            grant(address(0x1000 + i), uint32(i));
        }
        vm.prank(OWNER);
        reg.burnSeat(4);
        uint256 from = 1;
        uint256 sum = 0;
        for (uint256 turn = 0; from != 0; ++turn) {
            yes(turn < 4, "ends");
            (IRegistry.Member[] memory rows, uint256 next) = reg.page(from, 3);
            for (uint256 i = 0; i < rows.length; ++i) {
                sum += rows[i].seat;
                eq(rows[i].weight, rows[i].seat, "weight");
            }
            from = next;
        }
        eq(sum, 1 + 2 + 3 + 5 + 6 + 7, "all");
        (IRegistry.Member[] memory none, uint256 end) = reg.page(8, 3);
        eq(none.length + end, 0, "past the end");
        (none, end) = reg.page(0, type(uint256).max);
        eq(none.length, 6, "from zero, any count");
        eq(end, 0, "end");
        (none, end) = reg.page(5, 3);
        eq(end, 0, "exactly at the end");
        (none, end) = reg.page(type(uint256).max, type(uint256).max);
        eq(none.length + end, 0, "far past the end");
    }

    // -------------------------------------------------------------------- launch

    function test_only_the_contract_owner_launches_and_once() public {
        vm.prank(OWNER);
        vm.expectRevert(IRegistry.NothingToLaunch.selector);
        reg.launch();
        grant(alice, 3);
        enlist(1, alice, NODE1, INSTANCE1, 1);
        // every seat granted so far is active: whoever could launch now would found a cluster of one
        address[3] memory others = [STRANGER, GUARDIAN, alice];
        for (uint256 i = 0; i < others.length; ++i) {
            vm.prank(others[i]);
            vm.expectRevert(
                abi.encodeWithSelector(Ownable.OwnableUnauthorizedAccount.selector, others[i])
            );
            reg.launch();
        }
        grant(bob, 2);
        enlist(2, bob, NODE2, INSTANCE2, 1);
        vm.prank(OWNER);
        reg.launch();
        (uint64 blockNumber, uint64 version, bytes32 digest, uint32 weight) = reg.launched();
        eq(blockNumber, block.number, "block");
        eq(version, reg.version(), "version");
        eq(digest, reg.digest(), "digest");
        eq(weight, 5, "weight");
        vm.prank(OWNER);
        vm.expectRevert(IRegistry.AlreadyLaunched.selector);
        reg.launch();
    }

    function test_the_contract_owner_launches_with_fewer() public {
        grant(alice, 3);
        grant(bob, 2);
        enlist(1, alice, NODE1, INSTANCE1, 1);
        vm.prank(OWNER);
        reg.launch();
        (,,, uint32 weight) = reg.launched();
        eq(weight, 3, "weight");
    }

    // ----------------------------------------------------- the last change of the set

    function test_the_last_change_names_the_newest_change_of_who_votes_and_no_other() public {
        lastChangeIs(0, 0, 0);
        grant(alice, 3);
        grant(bob, 2);
        lastChangeIs(0, 0, 0);
        changes(true);
        enlist(1, alice, NODE1, INSTANCE1, 1);
        lastChangeIs(_block, reg.version(), reg.digest());
        changes(false); // the same key again
        enlist(1, alice, NODE1, INSTANCE1, 2);
        stays();
        announceAs(NODE1, 1, 3, ENDPOINT);
        stays();
        vm.prank(OWNER);
        reg.setWeight(2, 9); // nobody sits there
        stays();
        vm.prank(OWNER);
        reg.setWeight(1, 3); // as it was
        stays();
        changes(true); // another key on a seat that votes, though no weight moved
        enlist(1, alice, NODE2, INSTANCE2, 4);
        lastChangeIs(_block, reg.version(), reg.digest());
        changes(true);
        vm.prank(OWNER);
        reg.setWeight(1, 4);
        lastChangeIs(_block, reg.version(), reg.digest());
        changes(true);
        vm.prank(alice);
        reg.deactivate(1);
        lastChangeIs(_block, reg.version(), reg.digest());
        changes(false);
        vm.prank(OWNER);
        reg.burnSeat(1); // its node had no say any more
        stays();
        changes(true);
        enlist(2, bob, NODE1, INSTANCE1, 1);
        changes(true);
        vm.prank(OWNER);
        reg.burnSeat(2);
        lastChangeIs(_block, reg.version(), reg.digest());
    }

    bytes32 private _digestBefore;
    uint256 private _block = 1000; // the compiler takes block.number for a constant

    /// A new block, in which the next call does or does not change who votes.
    function changes(bool) private {
        (,, _digestBefore) = reg.lastChange();
        _block += 10;
        vm.roll(_block);
    }

    function stays() private view {
        (uint64 blockNumber,, bytes32 digest) = reg.lastChange();
        eq(digest, _digestBefore, "the last change");
        yes(blockNumber < _block, "an earlier block");
    }

    function lastChangeIs(uint256 number, uint64 version, bytes32 digest) private view {
        (uint64 haveBlock, uint64 haveVersion, bytes32 haveDigest) = reg.lastChange();
        eq(haveBlock, number, "block");
        eq(haveVersion, version, "version");
        eq(haveDigest, digest, "digest");
    }

    // --------------------------------------------------------------- governance

    function test_only_the_contract_owner_governs() public {
        address[2] memory others = [GUARDIAN, alice];
        bytes[12] memory calls = [
            abi.encodeCall(reg.setMinter, (STRANGER, 1)),
            abi.encodeCall(reg.setCompanions, (STRANGER, STRANGER)),
            abi.encodeCall(reg.liftSuspension, (1)),
            abi.encodeCall(reg.setWeight, (1, 1)),
            abi.encodeCall(reg.burnSeat, (1)),
            abi.encodeCall(reg.rotateRoot, (STRANGER, 0)),
            abi.encodeCall(reg.allowApp, (bytes20(uint160(1)), true)),
            abi.encodeCall(reg.setGuardian, (STRANGER)),
            abi.encodeCall(reg.setLease, (1)),
            abi.encodeCall(reg.setTransfersAllowed, (true)),
            abi.encodeCall(reg.unpause, ()),
            abi.encodeCall(reg.launch, ())
        ];
        grant(alice, 1);
        for (uint256 who = 0; who < others.length; ++who) {
            for (uint256 i = 0; i < calls.length; ++i) {
                vm.prank(others[who]);
                (bool done, bytes memory reason) = address(reg).call(calls[i]);
                yes(!done, "refused");
                eq(
                    keccak256(reason),
                    keccak256(
                        abi.encodeWithSelector(
                            Ownable.OwnableUnauthorizedAccount.selector, others[who]
                        )
                    ),
                    "reason"
                );
            }
            vm.prank(others[who]);
            vm.expectRevert(IRegistry.NotMinter.selector);
            reg.grantSeat(STRANGER, 1);
        }
    }

    function test_guardian_and_contract_owner_take_away_and_nobody_else() public {
        vm.prank(alice);
        vm.expectRevert(IRegistry.NotGuardian.selector);
        reg.pause();
        vm.prank(alice);
        vm.expectRevert(IRegistry.NotGuardian.selector);
        reg.revokeRoot(1);
        vm.prank(OWNER);
        reg.pause();
        vm.prank(OWNER);
        reg.unpause();
        vm.prank(GUARDIAN);
        reg.revokeRoot(1);
        vm.prank(OWNER);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.RootNotLive.selector, 1));
        reg.revokeRoot(1);
    }

    function test_a_pause_stops_admissions_and_no_exit() public {
        uint256 seat = grant(alice, 1);
        uint256 second = grant(bob, 1);
        enlist(seat, alice, NODE1, INSTANCE1, 1);
        enlist(second, bob, NODE2, INSTANCE2, 1);
        vm.prank(GUARDIAN);
        reg.pause();
        yes(reg.paused(), "paused");
        Proof memory p = proof(seat, NODE1, INSTANCE1, 2);
        vm.prank(alice);
        vm.expectRevert(Pausable.EnforcedPause.selector);
        send(p);
        uint64 deadline = uint64(block.timestamp + 60);
        bytes memory signature = signAnnounce(reg, NODE1, seat, 2, deadline, ENDPOINT);
        vm.expectRevert(Pausable.EnforcedPause.selector);
        reg.announce(seat, 2, deadline, ENDPOINT, signature);

        vm.prank(alice);
        reg.deactivate(seat);
        vm.warp(block.timestamp + LEASE);
        uint256[] memory seats = new uint256[](1);
        seats[0] = second;
        reg.sweep(seats);
        eq(reg.activeWeight(), 0, "all out");
        vm.prank(OWNER);
        reg.burnSeat(second);
    }

    function test_ownership_moves_in_two_steps_and_is_never_renounced() public {
        vm.prank(OWNER);
        vm.expectRevert(abi.encodeWithSelector(Ownable.OwnableInvalidOwner.selector, address(0)));
        reg.renounceOwnership();
        vm.prank(OWNER);
        reg.transferOwnership(bob);
        eq(reg.owner(), OWNER, "not yet");
        vm.prank(bob);
        reg.acceptOwnership();
        eq(reg.owner(), bob, "now");
    }

    function test_guardian_and_lease_are_set_within_bounds() public {
        vm.prank(OWNER);
        vm.expectRevert(IRegistry.ZeroAddress.selector);
        reg.setGuardian(address(0));
        vm.prank(OWNER);
        reg.setGuardian(bob);
        eq(reg.guardian(), bob, "guardian");
        uint40[2] memory bad = [uint40(0), 365 days + 1];
        for (uint256 i = 0; i < 2; ++i) {
            vm.prank(OWNER);
            vm.expectRevert(IRegistry.BadLease.selector);
            reg.setLease(bad[i]);
        }
        vm.prank(OWNER);
        reg.setLease(60);
        eq(reg.leaseDuration(), 60, "lease");
        eq(reg.maxSeats(), SEATS_MAX, "seats");
    }

    // ------------------------------------------------------------- trust anchors

    function test_a_root_in_grace_serves_until_its_end_and_never_returns() public {
        uint256 seat = grant(alice, 1);
        enlist(seat, alice, NODE1, INSTANCE1, 1);
        uint40 until = uint40(block.timestamp + 1 days);
        vm.prank(OWNER);
        reg.rotateRoot(vm.addr(0xBEEF), until);
        eq(reg.currentRootEpoch(), 2, "epoch");
        (address signer, uint40 validUntil) = reg.root(1);
        eq(signer, vm.addr(ROOT_SECRET), "old root");
        eq(validUntil, until, "grace");
        announceAs(NODE1, seat, 2, ENDPOINT);
        vm.warp(until);
        uint64 deadline = uint64(block.timestamp + 60);
        bytes memory signature = signAnnounce(reg, NODE1, seat, 3, deadline, ENDPOINT);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.RootNotLive.selector, 1));
        reg.announce(seat, 3, deadline, ENDPOINT, signature);
        // a later rotation does not lengthen an earlier root's life
        vm.prank(GUARDIAN);
        reg.revokeRoot(2);
        vm.prank(OWNER);
        reg.rotateRoot(vm.addr(0xF00D), type(uint40).max);
        (, validUntil) = reg.root(2);
        eq(validUntil, 0, "revoked stays revoked");
        (signer, validUntil) = reg.root(9);
        eq(signer, address(0), "no such root");
        eq(validUntil, 0, "never live");
    }

    function test_the_app_key_certified_again_under_a_new_root_carries_on() public {
        uint256 seat = grant(alice, 1);
        vm.prank(OWNER);
        reg.rotateRoot(vm.addr(0xBEEF), uint40(block.timestamp + 1 days));
        certify(reg, APP, appWallet, 0xBEEF, 2);
        (bytes20 appId, uint16 epoch) = reg.appKey(appWallet.addr);
        eq(bytes32(appId), bytes32(APP), "app");
        eq(epoch, 2, "epoch");
        // once more is no error, and the older root in grace takes nothing back
        certify(reg, APP, appWallet, 0xBEEF, 2);
        certify(reg, APP, appWallet, ROOT_SECRET, 1);
        (, epoch) = reg.appKey(appWallet.addr);
        eq(epoch, 2, "still the newer");
        bytes20 other = bytes20(uint160(77));
        bytes memory signature = sign(ROOT_SECRET, kmsClaim(other, appWallet));
        vm.expectRevert(IRegistry.BadAppKey.selector);
        reg.certifyAppKey(
            other, bytes32(appWallet.publicKeyX), bytes32(appWallet.publicKeyY), signature, 1
        );
        enlist(seat, alice, NODE1, INSTANCE1, 1);
        eq(reg.member(seat).rootEpoch, 2, "node");
    }

    function test_certification_needs_a_live_root_its_signature_and_a_real_key() public {
        Vm.Wallet memory key = vm.createWallet(0x77);
        (bytes32 x, bytes32 y) = (bytes32(key.publicKeyX), bytes32(key.publicKeyY));
        bytes memory good = sign(ROOT_SECRET, kmsClaim(APP, key));
        vm.expectRevert(abi.encodeWithSelector(IRegistry.RootNotLive.selector, 0));
        reg.certifyAppKey(APP, x, y, good, 0);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.RootNotLive.selector, 2));
        reg.certifyAppKey(APP, x, y, good, 2);
        vm.expectRevert(IRegistry.NotOnCurve.selector);
        reg.certifyAppKey(APP, x, bytes32(uint256(y) ^ 2), good, 1);
        vm.expectRevert(IRegistry.BadSignature.selector);
        reg.certifyAppKey(bytes20(uint160(5)), x, y, good, 1);
        vm.expectRevert(IRegistry.BadAppKey.selector);
        reg.certifyAppKey(0, x, y, good, 1);
        bytes memory stranger = sign(0xBAD, kmsClaim(APP, key));
        vm.expectRevert(IRegistry.BadSignature.selector);
        reg.certifyAppKey(APP, x, y, stranger, 1);
        reg.certifyAppKey(APP, x, y, good, 1);
    }

    // ------------------------------------------------------------------ the rest

    function test_light_clients_find_version_weight_and_digest_where_it_is_promised() public {
        uint256 seat = grant(alice, 6);
        enlist(seat, alice, NODE1, INSTANCE1, 1);
        uint256 word = uint256(vm.load(address(reg), bytes32(0)));
        eq(uint64(word), reg.version(), "version");
        eq(uint32(word >> 64), reg.activeWeight(), "active");
        eq(uint32(word >> 96), reg.grantedWeight(), "granted");
        eq(uint32(word >> 128), reg.seatCount(), "seats");
        eq(vm.load(address(reg), bytes32(uint256(1))), reg.digest(), "digest");
        (uint64 changed, uint64 version, bytes32 digest) = reg.lastChange();
        word = uint256(vm.load(address(reg), bytes32(uint256(4))));
        eq(uint64(word), changed, "block of the last change");
        eq(uint64(word >> 64), version, "its version");
        eq(vm.load(address(reg), bytes32(uint256(5))), digest, "its digest");
    }

    function test_gas_of_the_usual_calls() public {
        grant(alice, 1);
        enlist(1, alice, NODE1, INSTANCE1, 1);
        vm.prank(OWNER);
        uint256 seat = reg.grantSeat(bob, 1);
        uint256 used = vm.snapshotGasLastCall("grantSeat");
        yes(used < 160_000, "grantSeat");
        string memory endpoint = "/dns4/node-17.example.org/tcp/443"; // 33 bytes, two words
        Proof memory p = proofOf(reg, seat, NODE2, INSTANCE2, 1, 1, endpoint);
        vm.prank(bob);
        send(p);
        used = vm.snapshotGasLastCall("register");
        yes(used < 340_000, "register");
        announceAs(NODE2, seat, 2, endpoint);
        used = vm.snapshotGasLastCall("announce");
        yes(used < 60_000, "announce");
        Vm.Wallet memory key = vm.createWallet(0x77);
        certify(reg, APP, key, ROOT_SECRET, 1);
        used = vm.snapshotGasLastCall("certifyAppKey");
        yes(used < 65_000, "certifyAppKey");
        vm.prank(bob);
        reg.deactivate(seat);
        used = vm.snapshotGasLastCall("deactivate");
        yes(used < 120_000, "deactivate");
    }

    function domain(IDeployed at) private view returns (bytes32) {
        return keccak256(
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
    }
}
