// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";
import {Pausable} from "@openzeppelin/contracts/utils/Pausable.sol";

import {IRegistry} from "../src/IRegistry.sol";
import {Vm} from "./Cheats.sol";
import {Fixture} from "./Fixture.sol";

/// Who governs the registry: launch, roles, pause, roots and app keys.
contract GovernanceTest is Fixture {
    // -------------------------------------------------------------------- launch

    function test_only_the_contract_owner_launches_and_once() public {
        vm.prank(OWNER);
        vm.expectRevert(IRegistry.NothingToLaunch.selector);
        reg.launch(0);
        grant(alice, 3);
        enlist(1, alice, NODE1, INSTANCE1, 1);
        // every seat granted so far is active: whoever could launch now would found a cluster of one
        bytes32 founders = voters();
        address[3] memory others = [STRANGER, GUARDIAN, alice];
        for (uint256 i = 0; i < others.length; ++i) {
            vm.prank(others[i]);
            vm.expectRevert(
                abi.encodeWithSelector(Ownable.OwnableUnauthorizedAccount.selector, others[i])
            );
            reg.launch(founders);
        }
        grant(bob, 2);
        enlist(2, bob, NODE2, INSTANCE2, 1);
        launch();
        (uint64 blockNumber, uint64 version, bytes32 digest, uint32 weight) = reg.launched();
        eq(blockNumber, block.number, "block");
        eq(version, reg.version(), "version");
        eq(digest, reg.digest(), "digest");
        eq(weight, 5, "weight");
        founders = voters();
        vm.prank(OWNER);
        vm.expectRevert(IRegistry.AlreadyLaunched.selector);
        reg.launch(founders);
    }

    function test_the_contract_owner_launches_with_fewer() public {
        grant(alice, 3);
        grant(bob, 2);
        enlist(1, alice, NODE1, INSTANCE1, 1);
        launch();
        (,,, uint32 weight) = reg.launched();
        eq(weight, 3, "weight");
    }

    /// By guardian, seat owner, node or the owner himself: what he looked at is what is founded, or nothing.
    function test_the_launch_takes_nobody_but_those_whom_the_owner_looked_at() public {
        grant(alice, 3);
        grant(bob, 2);
        enlist(1, alice, NODE1, INSTANCE1, 1);
        bytes32 seen = voters();
        enlist(2, bob, NODE2, INSTANCE2, 1);
        founding(seen, true); // one more came
        seen = voters();
        vm.prank(GUARDIAN);
        reg.deactivate(1);
        founding(seen, true); // one was put out
        seen = voters();
        enlist(2, bob, 0x333, bytes20(uint160(3)), 2);
        founding(seen, true); // another machine sits there
        seen = voters();
        vm.prank(OWNER);
        reg.setWeight(2, 9);
        founding(seen, true); // it weighs more
        founding(0, true); // and none looked at none

        // who does not vote yet, where one is reached, what a seat without a node weighs: no matter
        seen = voters();
        grant(address(0xCA), 1);
        vm.prank(OWNER);
        reg.setWeight(1, 4);
        enlist(2, bob, 0x333, bytes20(uint160(4)), 3);
        yes(reg.digest() != seen, "the registry went on");
        founding(seen, false);
        (,,, uint32 weight) = reg.launched();
        eq(weight, 9, "weight");
    }

    function founding(bytes32 founders, bool refused) private {
        vm.prank(OWNER);
        if (refused) vm.expectRevert(IRegistry.OtherFounders.selector);
        reg.launch(founders);
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
            abi.encodeCall(reg.launch, (0))
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
}
