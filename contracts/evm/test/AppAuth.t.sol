// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";
import {Initializable} from "@openzeppelin/contracts/proxy/utils/Initializable.sol";

import {AppAuth} from "../src/AppAuth.sol";
import {AppProxy} from "../src/AppProxy.sol";
import {IAppAuth, IAppAuthBasicManagement, IRules} from "../src/IRules.sol";
import {Fixture} from "./Fixture.sol";

/// dstack's KMS contract as far as a boot goes: the order of its questions, its reasons, and the call
/// that it makes to whatever stands at the app's id.
contract KmsCaller {
    mapping(address app => bool) public registeredApps;
    mapping(bytes32 image => bool) public allowedOsImages;

    function registerApp(address app) external {
        registeredApps[app] = true;
    }

    function addOsImageHash(bytes32 image) external {
        allowedOsImages[image] = true;
    }

    function isAppAllowed(IAppAuth.AppBootInfo calldata info)
        external
        view
        returns (bool, string memory)
    {
        if (!registeredApps[info.appId]) return (false, "App not registered");
        if (!allowedOsImages[info.osImageHash]) return (false, "OS image is not allowed");
        if (info.appId.code.length == 0) return (false, "App not deployed or invalid address");
        return IAppAuth(info.appId).isAppAllowed(info);
    }
}

contract AppAuthTest is Fixture {
    bytes32 internal constant COMPOSE = bytes32(uint256(0xC0));
    bytes32 internal constant DEVICE = bytes32(uint256(0xDE));
    bytes32 internal constant IMAGE = bytes32(uint256(0x05));

    AppAuth internal app;
    KmsCaller internal kms;
    IRules internal rules;

    function setUp() public override {
        super.setUp();
        rules = IRules(reg.rules());
        bytes memory call = abi.encodeCall(AppAuth.initialize, (OWNER, address(reg)));
        app = AppAuth(address(new AppProxy(address(new AppAuth()), call)));
        kms = new KmsCaller();
        kms.registerApp(address(app));
        kms.addOsImageHash(IMAGE);
        vm.prank(OWNER);
        reg.allowApp(bytes20(address(app)), true);
        vm.prank(OWNER);
        rules.addOsImage(IMAGE);
    }

    function boot() private view returns (IAppAuth.AppBootInfo memory info) {
        info.appId = address(app);
        info.composeHash = COMPOSE;
        info.instanceId = address(0x1111);
        info.deviceId = DEVICE;
        info.osImageHash = IMAGE;
        info.tcbStatus = "UpToDate";
        info.advisoryIds = new string[](2);
    }

    function said(IAppAuth.AppBootInfo memory info, string memory reason) private view {
        (bool allowed, string memory why) = kms.isAppAllowed(info);
        eqText(why, reason, "reason");
        yes(allowed == (bytes(reason).length == 0), "answer");
    }

    function test_E16_the_interface_is_the_one_that_dstack_calls() public view {
        eq(bytes32(IAppAuth.isAppAllowed.selector), bytes32(hex"1e079198"), "selector");
        eq(bytes32(type(IAppAuth).interfaceId), bytes32(hex"1e079198"), "IAppAuth");
        eq(bytes32(type(IAppAuthBasicManagement).interfaceId), bytes32(hex"8fd37527"), "management");
        yes(app.supportsInterface(0x1e079198), "answers for the one");
        yes(app.supportsInterface(0x8fd37527), "and for the other");
        yes(app.supportsInterface(0x01ffc9a7), "and for ERC-165");
        yes(!app.supportsInterface(0xffffffff), "and not for everything");
    }

    function test_E16_behind_the_kms_a_boot_is_answered_and_never_reverts() public {
        said(boot(), "Compose hash not allowed");
        vm.prank(OWNER);
        rules.setAppAuth(address(app));
        // as dstack's tools do it: at the app's own address
        vm.prank(OWNER);
        app.addComposeHash(COMPOSE);
        said(boot(), "Device not allowed");
        vm.prank(OWNER);
        app.addDevice(DEVICE);
        said(boot(), "");
        yes(app.allowedComposeHashes(COMPOSE) && app.allowedDeviceIds(DEVICE), "shown");
        yes(!app.allowAnyDevice(), "and the flag");
        vm.prank(OWNER);
        app.removeDevice(DEVICE);
        said(boot(), "Device not allowed");
        vm.prank(OWNER);
        app.addDevice(DEVICE);
        vm.prank(OWNER);
        app.removeComposeHash(COMPOSE);
        said(boot(), "Compose hash not allowed");
        IAppAuth.AppBootInfo memory other = boot();
        other.appId = address(0xBAD);
        said(other, "App not registered");
    }

    function test_the_app_answers_for_its_own_id_only_and_without_rules_with_no() public {
        IAppAuth.AppBootInfo memory info = boot();
        info.appId = address(0xBAD);
        (bool allowed, string memory why) = app.isAppAllowed(info);
        yes(!allowed, "another app");
        eqText(why, "Another app's id", "reason");
        vm.prank(OWNER);
        reg.setCompanions(address(0), address(0));
        said(boot(), "The registry names no rules");
    }

    function test_replaced_rules_decide_at_once_and_the_address_stays() public {
        vm.prank(OWNER);
        rules.addComposeHash(COMPOSE);
        vm.prank(OWNER);
        rules.addDevice(DEVICE);
        said(boot(), "");
        IRules next = IRules(vm.deployCode("Rules.sol:Rules", abi.encode(address(reg))));
        address court = reg.certificates();
        vm.prank(OWNER);
        reg.setCompanions(address(next), court);
        said(boot(), "OS image not allowed");
    }

    function test_strangers_govern_nothing() public {
        bytes[7] memory calls = [
            abi.encodeCall(app.addComposeHash, (COMPOSE)),
            abi.encodeCall(app.removeComposeHash, (COMPOSE)),
            abi.encodeCall(app.addDevice, (DEVICE)),
            abi.encodeCall(app.removeDevice, (DEVICE)),
            abi.encodeCall(app.setRegistry, (STRANGER)),
            abi.encodeCall(app.disableUpgrades, ()),
            abi.encodeCall(app.upgradeToAndCall, (address(new AppAuth()), ""))
        ];
        for (uint256 i = 0; i < calls.length; ++i) {
            vm.prank(STRANGER);
            (bool done, bytes memory why) = address(app).call(calls[i]);
            yes(!done, "refused");
            eq(
                keccak256(why),
                keccak256(
                    abi.encodeWithSelector(Ownable.OwnableUnauthorizedAccount.selector, STRANGER)
                ),
                "reason"
            );
        }
        // even the owner's word reaches the rules only if the registry's owner named this app there
        vm.prank(OWNER);
        vm.expectRevert(IRules.NotOwner.selector);
        app.addComposeHash(COMPOSE);
    }

    function test_code_is_replaced_until_that_is_disabled_for_good() public {
        address next = address(new AppAuth());
        vm.prank(OWNER);
        app.upgradeToAndCall(next, "");
        eq(app.owner(), OWNER, "the owner stays");
        eq(app.registry(), address(reg), "and the registry");
        vm.prank(OWNER);
        app.disableUpgrades();
        vm.prank(OWNER);
        vm.expectRevert(AppAuth.UpgradesDisabled.selector);
        app.upgradeToAndCall(next, "");
        vm.prank(OWNER);
        app.setRegistry(address(0x9999));
        eq(app.registry(), address(0x9999), "another registry is still possible");
        vm.prank(OWNER);
        vm.expectRevert(AppAuth.ZeroAddress.selector);
        app.setRegistry(address(0));
    }

    function test_nobody_initializes_it_again_or_the_implementation_at_all() public {
        vm.expectRevert(Initializable.InvalidInitialization.selector);
        app.initialize(STRANGER, STRANGER);
        AppAuth bare = new AppAuth();
        vm.expectRevert(Initializable.InvalidInitialization.selector);
        bare.initialize(STRANGER, STRANGER);
        vm.prank(OWNER);
        app.transferOwnership(STRANGER);
        eq(app.owner(), OWNER, "in two steps");
        vm.prank(STRANGER);
        app.acceptOwnership();
        vm.prank(STRANGER);
        vm.expectRevert(abi.encodeWithSelector(Ownable.OwnableInvalidOwner.selector, address(0)));
        app.renounceOwnership();
    }
}
