// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IAppAuth, IRules} from "../src/IRules.sol";
import {Fixture} from "./Fixture.sol";

/// The rules for boots and the attestation policy, behind the registry that names them.
contract RulesTest is Fixture {
    bytes32 internal constant COMPOSE = bytes32(uint256(0xC0));
    bytes32 internal constant DEVICE = bytes32(uint256(0xDE));
    bytes32 internal constant IMAGE = bytes32(uint256(0x05));
    bytes20 internal constant INSTANCE = bytes20(hex"1111111111111111111111111111111111111111");

    IRules internal rules;

    function setUp() public override {
        super.setUp();
        rules = IRules(reg.rules());
    }

    function test_the_registry_names_its_rules_in_slot_7() public view {
        eq(uint256(vm.load(address(reg), bytes32(uint256(7)))), uint160(address(rules)), "slot 7");
        (uint64 version, uint64 blockNumber, bytes32 hash) = rules.policy();
        eq(version + blockNumber, 0, "no policy at first");
        eq(hash, 0, "no hash");
    }

    function testFuzz_a_policy_is_numbered_and_hashed(string calldata text) public {
        vm.assume(bytes(text).length != 0 && bytes(text).length <= 16_384);
        vm.prank(OWNER);
        rules.setPolicy(text);
        (,, bytes32 first) = rules.policy();
        eq(first, keccak256(bytes(text)), "hash of the first");
        vm.roll(2000);
        vm.prank(OWNER);
        rules.setPolicy("{}");
        (uint64 version, uint64 blockNumber, bytes32 hash) = rules.policy();
        eq(version, 2, "version");
        eq(blockNumber, 2000, "block");
        eq(hash, keccak256("{}"), "hash");
        eq(rules.revision(), 2, "revision");
    }

    function test_the_event_carries_the_text_and_slots_0_and_1_its_proof() public {
        vm.recordLogs();
        vm.prank(OWNER);
        rules.setPolicy("{\"format\":1}");
        bytes memory data = vm.getRecordedLogs()[0].data;
        (bytes32 hash, string memory text) = abi.decode(data, (bytes32, string));
        eqText(text, "{\"format\":1}", "text");
        eq(hash, keccak256(bytes(text)), "hash");
        uint256 word = uint256(vm.load(address(rules), 0));
        eq(uint64(word), 1, "version");
        eq(uint64(word >> 64), block.number, "block");
        eq(vm.load(address(rules), bytes32(uint256(1))), hash, "slot 1");
    }

    function test_a_policy_has_1_to_16384_bytes() public {
        vm.prank(OWNER);
        vm.expectRevert(IRules.BadPolicy.selector);
        rules.setPolicy("");
        vm.prank(OWNER);
        vm.expectRevert(IRules.BadPolicy.selector);
        rules.setPolicy(string(new bytes(16_385)));
        vm.prank(OWNER);
        rules.setPolicy(string(new bytes(16_384)));
    }

    function test_the_owner_sets_the_guardian_only_takes_away_and_nobody_else_does_either() public {
        bytes[8] memory sets = [
            abi.encodeCall(rules.setPolicy, ("x")),
            abi.encodeCall(rules.addComposeHash, (COMPOSE)),
            abi.encodeCall(rules.addDevice, (DEVICE)),
            abi.encodeCall(rules.addOsImage, (IMAGE)),
            abi.encodeCall(rules.setBootRules, (true, false, false)),
            abi.encodeCall(rules.setAppAuth, (STRANGER)),
            abi.encodeCall(rules.addComposeHash, (bytes32(uint256(2)))),
            abi.encodeCall(rules.addDevice, (bytes32(uint256(2))))
        ];
        for (uint256 i = 0; i < sets.length; ++i) {
            address[2] memory others = [GUARDIAN, STRANGER];
            for (uint256 who = 0; who < 2; ++who) {
                vm.prank(others[who]);
                vm.expectRevert(IRules.NotOwner.selector);
                (bool done,) = address(rules).call(sets[i]);
                done;
            }
            vm.prank(OWNER);
            (bool ok,) = address(rules).call(sets[i]);
            yes(ok, "the owner may");
        }
        eq(rules.composeHashes().length, 2, "two compose hashes");
        bytes[3] memory takes = [
            abi.encodeCall(rules.removeComposeHash, (COMPOSE)),
            abi.encodeCall(rules.removeDevice, (DEVICE)),
            abi.encodeCall(rules.removeOsImage, (IMAGE))
        ];
        vm.prank(OWNER);
        rules.setAppAuth(address(0));
        for (uint256 i = 0; i < takes.length; ++i) {
            vm.prank(STRANGER);
            vm.expectRevert(IRules.NotGuardian.selector);
            (bool done,) = address(rules).call(takes[i]);
            vm.prank(GUARDIAN);
            (done,) = address(rules).call(takes[i]);
            yes(done, "the guardian may take away");
        }
        yes(!rules.allowedComposeHashes(COMPOSE), "compose hash");
        yes(!rules.allowedDeviceIds(DEVICE), "device");
        yes(!rules.allowedOsImages(IMAGE), "image");
        eq(rules.deviceIds().length, 1, "one device is left");
    }

    function test_lists_hold_64_entries_once_each_and_never_zero() public {
        vm.prank(OWNER);
        vm.expectRevert(IRules.ZeroValue.selector);
        rules.addComposeHash(0);
        for (uint256 i = 1; i <= 64; ++i) {
            vm.prank(OWNER);
            rules.addComposeHash(bytes32(i));
        }
        vm.prank(OWNER);
        rules.addComposeHash(bytes32(uint256(64))); // there already
        vm.prank(OWNER);
        vm.expectRevert(IRules.ListFull.selector);
        rules.addComposeHash(bytes32(uint256(65)));
        eq(rules.composeHashes().length, 64, "length");
        eq(rules.revision(), 64, "only changes count");
    }

    function test_a_change_of_roles_in_the_registry_is_one_in_the_rules() public {
        vm.prank(OWNER);
        reg.transferOwnership(STRANGER);
        vm.prank(STRANGER);
        reg.acceptOwnership();
        vm.prank(OWNER);
        vm.expectRevert(IRules.NotOwner.selector);
        rules.setPolicy("mine");
        vm.prank(STRANGER);
        rules.setPolicy("mine");
    }

    // --------------------------------------------------------------- boots

    function test_nothing_boots_until_everything_about_it_was_allowed() public {
        IAppAuth.AppBootInfo memory info = boot();
        info.appId = address(0xBAD);
        said(info, "App not allowed");
        info = boot();
        info.tcbStatus = "OutOfDate";
        said(info, "TCB status is not up to date");
        info.tcbStatus = "UpToDate ";
        said(info, "TCB status is not up to date");
        info = boot();
        said(info, "OS image not allowed");
        vm.prank(OWNER);
        rules.addOsImage(IMAGE);
        said(info, "Compose hash not allowed");
        vm.prank(OWNER);
        rules.addComposeHash(COMPOSE);
        said(info, "Device not allowed");
        vm.prank(OWNER);
        rules.addDevice(DEVICE);
        said(info, "");
        info.deviceId = bytes32(uint256(1));
        said(info, "Device not allowed");
        vm.prank(OWNER);
        rules.setBootRules(true, false, false);
        info.tcbStatus = "SWHardeningNeeded";
        said(info, "");
        vm.prank(GUARDIAN);
        rules.removeComposeHash(COMPOSE);
        said(info, "Compose hash not allowed");
    }

    function test_with_the_seat_gate_only_bound_or_active_instances_boot() public {
        allowAll();
        vm.prank(OWNER);
        rules.setBootRules(false, true, true);
        uint256 seat = grant(alice, 1);
        said(boot(), "Instance has no seat");
        vm.prank(alice);
        reg.bindInstance(seat, INSTANCE);
        said(boot(), "");
        vm.prank(alice);
        reg.bindInstance(seat, bytes20(uint160(2)));
        said(boot(), "Instance has no seat");
        vm.prank(alice);
        reg.bindInstance(seat, INSTANCE);
        send(proof(seat, 0x111, INSTANCE, 1));
        vm.prank(alice);
        reg.bindInstance(seat, 0);
        said(boot(), ""); // it sits on the seat
        vm.prank(GUARDIAN);
        reg.deactivate(seat);
        said(boot(), "Instance has no seat");
        IAppAuth.AppBootInfo memory nobody = boot();
        nobody.instanceId = address(0);
        said(nobody, "Instance has no seat");
    }

    function allowAll() private {
        vm.prank(OWNER);
        rules.addOsImage(IMAGE);
        vm.prank(OWNER);
        rules.addComposeHash(COMPOSE);
        vm.prank(OWNER);
        rules.addDevice(DEVICE);
    }

    function boot() private pure returns (IAppAuth.AppBootInfo memory info) {
        info.appId = address(APP);
        info.composeHash = COMPOSE;
        info.instanceId = address(INSTANCE);
        info.deviceId = DEVICE;
        info.osImageHash = IMAGE;
        info.tcbStatus = "UpToDate";
        info.advisoryIds = new string[](1);
        info.advisoryIds[0] = "INTEL-SA-00001";
    }

    function said(IAppAuth.AppBootInfo memory info, string memory reason) private view {
        (bool allowed, string memory why) = rules.isAppAllowed(info);
        eqText(why, reason, "reason");
        yes(allowed == (bytes(reason).length == 0), "answer");
    }
}
