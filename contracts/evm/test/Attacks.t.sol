// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {IERC721Errors} from "@openzeppelin/contracts/interfaces/draft-IERC6093.sol";

import {IRegistry} from "../src/IRegistry.sol";
import {Vm} from "./Cheats.sol";
import {Fixture, IDeployed} from "./Fixture.sol";

/// The attacks that an earlier membership contract fell to, each by its number, and each refused.
/// E16 (the boot check of dstack had another shape there) is in AppAuth.t.sol. E25 (the public root
/// of a simulator as trust anchor) is a matter of configuration that no contract can see; the
/// deployment command refuses those roots.
contract AttacksTest is Fixture {
    uint256 internal constant NODE = 0x111;
    uint256 internal constant EVIL = 0xE71;
    bytes20 internal constant INSTANCE = bytes20(hex"1111111111111111111111111111111111111111");

    uint256 internal seat;
    uint256 internal seat2;

    function setUp() public override {
        super.setUp();
        seat = grant(alice, 3);
        seat2 = grant(bob, 2);
    }

    function refused(Proof memory p, address sender, bytes memory reason) private {
        (bytes32 digest, uint32 weight) = (reg.digest(), reg.activeWeight());
        vm.prank(sender);
        vm.expectRevert(reason);
        send(p);
        eq(reg.digest(), digest, "nothing changed");
        eq(reg.activeWeight(), weight, "no weight gained");
    }

    function refused(Proof memory p, address sender, bytes4 selector) private {
        refused(p, sender, abi.encodeWithSelector(selector));
    }

    function test_E01_a_key_that_no_root_certified_signs_no_claims() public {
        Proof memory p = proof(seat2, EVIL, INSTANCE2, 1);
        Vm.Wallet memory key = vm.createWallet(EVIL);
        p.appSignature = sign(EVIL, claimOf(0, purposeText(reg, seat2, INSTANCE2), key));
        refused(p, bob, IRegistry.BadAppKey.selector);
        // nor does showing the genuine, public KMS signature for it help
        bytes memory genuine = sign(ROOT_SECRET, kmsClaim(APP, appWallet));
        vm.expectRevert(IRegistry.BadSignature.selector);
        reg.certifyAppKey(APP, bytes32(key.publicKeyX), bytes32(key.publicKeyY), genuine, 1);
    }

    function testFuzz_E02_random_bytes_are_no_app_signature(bytes32 r, bytes32 s, uint8 v) public {
        Proof memory p = proof(seat2, EVIL, INSTANCE2, 1);
        // half of the runs within the range that ecrecover takes, or none would get that far
        if (v % 2 == 0) (s, v) = (bytes32(uint256(s) >> 1), 27 + (v / 2) % 2);
        p.appSignature = abi.encodePacked(r, s, v);
        vm.prank(bob);
        vm.expectRevert();
        send(p);
    }

    function testFuzz_E02_random_bytes_are_no_kms_or_node_signature(bytes32 r, bytes32 s, uint8 v)
        public
    {
        (s, v) = (bytes32(uint256(s) >> 1), 27 + v % 2);
        bytes memory junk = abi.encodePacked(r, s, v);
        Vm.Wallet memory key = vm.createWallet(EVIL);
        vm.expectRevert();
        reg.certifyAppKey(APP, bytes32(key.publicKeyX), bytes32(key.publicKeyY), junk, 1);
        Proof memory p = proof(seat2, EVIL, INSTANCE2, 1);
        p.nodeSignature = junk;
        vm.prank(bob);
        vm.expectRevert();
        send(p);
    }

    function test_E02_signatures_of_other_lengths_and_empty_keys_are_refused() public {
        Proof memory p = proof(seat2, EVIL, INSTANCE2, 1);
        uint256[4] memory lengths = [uint256(0), 64, 66, 97];
        for (uint256 i = 0; i < lengths.length; ++i) {
            Proof memory bad = proof(seat2, EVIL, INSTANCE2, 1);
            bad.appSignature = new bytes(lengths[i]);
            refused(
                bad,
                bob,
                abi.encodeWithSelector(ECDSA.ECDSAInvalidSignatureLength.selector, lengths[i])
            );
        }
        (p.r.keyX, p.r.keyY) = (0, 0);
        refused(p, bob, IRegistry.NotOnCurve.selector);
    }

    function test_E03_a_stranger_cannot_put_her_node_on_another_seat() public {
        enlist(seat, alice, NODE, INSTANCE, 1);
        // the victim's own calldata again: the number is used up
        refused(
            proof(seat, NODE, INSTANCE, 1),
            STRANGER,
            abi.encodeWithSelector(IRegistry.BadIncarnation.selector, 1)
        );
        // a perfect proof of the stranger's own machine for the victim's seat: no consent
        refused(proof(seat, EVIL, INSTANCE2, 2), STRANGER, IRegistry.NotAuthorized.selector);
        refused(proof(seat, EVIL, INSTANCE2, 2), bob, IRegistry.NotAuthorized.selector);
        // even the victim's node cannot be registered anew by others: its incarnation is the owner's
        refused(proof(seat, NODE, INSTANCE, 2), STRANGER, IRegistry.NotAuthorized.selector);
        eqText(reg.member(seat).endpoint, ENDPOINT, "endpoint");
    }

    function test_E04_a_proof_copied_from_a_transaction_is_worth_nothing() public {
        Proof memory hers = proof(seat, NODE, INSTANCE, 1);
        vm.prank(alice);
        send(hers);
        // for another seat the claim reads differently
        Proof memory copy = proof(seat, NODE, INSTANCE, 2);
        copy.r.seat = seat2;
        refused(copy, bob, IRegistry.BadAppKey.selector);
        // on the same seat without the node's secret: no proof of possession
        Proof memory forged = proof(seat, NODE, INSTANCE, 2);
        forged.nodeSignature = signRegister(reg, EVIL, forged.r);
        refused(forged, alice, IRegistry.BadSignature.selector);
        // and what the node signed cannot be altered on the way
        Proof memory bent = proof(seat, NODE, INSTANCE, 2);
        bent.r.endpoint = "/ip4/203.0.113.66/tcp/1";
        refused(bent, alice, IRegistry.BadSignature.selector);
        bent = proof(seat, NODE, INSTANCE, 2);
        bent.r.incarnation = 3;
        refused(bent, alice, IRegistry.BadSignature.selector);
        bent = proof(seat, NODE, INSTANCE, 2);
        bent.r.deadline += 1;
        refused(bent, alice, IRegistry.BadSignature.selector);
    }

    function test_E05_another_app_under_the_same_root_does_not_qualify() public {
        bytes20 otherApp = bytes20(uint160(0x07e4));
        Vm.Wallet memory otherKey = vm.createWallet(0x07e4);
        certify(reg, otherApp, otherKey, ROOT_SECRET, 1);
        Proof memory p = proof(seat2, EVIL, INSTANCE2, 1);
        p.appSignature =
            sign(0x07e4, claimOf(0, purposeText(reg, seat2, INSTANCE2), vm.createWallet(EVIL)));
        refused(p, bob, abi.encodeWithSelector(IRegistry.AppNotAllowed.selector, otherApp));
    }

    function test_E06_a_proof_for_another_contract_or_chain_does_not_count() public {
        IDeployed second = deploy();
        Proof memory p = proofOf(second, seat2, NODE, INSTANCE2, 1, 0, ENDPOINT);
        refused(p, bob, IRegistry.BadAppKey.selector);
        // the app's claim for here, the node's consent for there
        Proof memory mixed = proof(seat2, NODE, INSTANCE2, 1);
        mixed.nodeSignature = p.nodeSignature;
        refused(mixed, bob, IRegistry.BadSignature.selector);
        // signed on this chain, replayed on a fork of it with another id
        Proof memory here = proof(seat2, NODE, INSTANCE2, 1);
        // (numbers written out: the optimizer believes that a chain's id never changes)
        vm.chainId(31338);
        refused(here, bob, IRegistry.BadAppKey.selector);
        vm.chainId(31337);
        vm.prank(bob);
        send(here);
    }

    function test_E07_naming_an_instance_reserves_nothing() public {
        // bob knows alice's instance id and is first to bind and to try it
        vm.prank(bob);
        reg.bindInstance(seat2, INSTANCE);
        vm.prank(bob);
        vm.expectRevert(IRegistry.NotSeatOwner.selector);
        reg.bindInstance(seat, INSTANCE);
        Proof memory p = proof(seat, NODE, INSTANCE, 1);
        p.r.seat = seat2;
        refused(p, bob, IRegistry.BadAppKey.selector);
        enlist(seat, alice, NODE, INSTANCE, 1);
        // once it stands, a second seat for the same instance is refused
        refused(proof(seat2, EVIL, INSTANCE, 1), bob, IRegistry.InstanceInUse.selector);
    }

    function test_E08_a_seat_pushed_at_a_member_is_refused() public {
        vm.prank(bob);
        vm.expectRevert(IRegistry.SeatLocked.selector);
        reg.transferFrom(bob, alice, seat2);
        vm.prank(OWNER);
        reg.setTransfersAllowed(true);
        vm.prank(bob);
        vm.expectRevert(IRegistry.WalletHasSeat.selector);
        reg.transferFrom(bob, alice, seat2);
        vm.prank(bob);
        vm.expectRevert(IRegistry.WalletHasSeat.selector);
        reg.safeTransferFrom(bob, alice, seat2);
        vm.prank(bob);
        vm.expectRevert(IRegistry.WalletHasSeat.selector);
        reg.transferFrom(bob, bob, seat2);
        vm.prank(STRANGER);
        vm.expectRevert(
            abi.encodeWithSelector(
                IERC721Errors.ERC721InsufficientApproval.selector, STRANGER, seat2
            )
        );
        reg.transferFrom(bob, STRANGER, seat2);
    }

    function test_E09_no_wallet_ever_holds_two_seats() public {
        vm.prank(OWNER);
        vm.expectRevert(IRegistry.WalletHasSeat.selector);
        reg.grantSeat(alice, 1);
        eq(reg.balanceOf(alice), 1, "one");
        eq(reg.seatCount(), 2, "the refused grant used no number");
        eq(reg.grantedWeight(), 5, "and no weight");
    }

    function test_E10_a_sold_seat_comes_without_the_sellers_node() public {
        vm.prank(alice);
        reg.bindInstance(seat, INSTANCE);
        enlist(seat, alice, NODE, INSTANCE, 7);
        sell(seat, alice, STRANGER);

        IRegistry.Member memory m = reg.member(seat);
        eq(m.status, 0, "empty");
        eq(m.owner, STRANGER, "buyer");
        eq(m.weight, 3, "weight stays with the seat");
        eq(reg.activeWeight(), 0, "and counts no more");
        eq(m.signer, address(0), "key");
        eq(bytes(m.endpoint).length, 0, "endpoint");
        eq(bytes32(reg.boundInstance(seat)), 0, "binding");
        uint64 deadline = uint64(time() + 60);
        bytes memory signature = signAnnounce(reg, NODE, seat, 8, deadline, ENDPOINT);
        vm.expectRevert(IRegistry.NoNode.selector);
        reg.announce(seat, 8, deadline, ENDPOINT, signature);
        refused(proof(seat, NODE, INSTANCE, 8), alice, IRegistry.NotAuthorized.selector);
        vm.prank(alice);
        vm.expectRevert(IRegistry.NotSeatOwner.selector);
        reg.deactivate(seat);
        bytes memory hers = signAuthorize(ALICE_SECRET, seat, INSTANCE, deadline);
        Proof memory p = proof(seat, NODE, INSTANCE, 8);
        vm.expectRevert(IRegistry.NotAuthorized.selector);
        reg.register(p.r, p.appSignature, p.nodeSignature, hers);
        // the buyer starts above the seller's number
        refused(
            proof(seat, EVIL, INSTANCE2, 7),
            STRANGER,
            abi.encodeWithSelector(IRegistry.BadIncarnation.selector, 7)
        );
        enlist(seat, STRANGER, EVIL, INSTANCE2, 8);
        // and the freed instance hinders nobody
        enlist(seat2, bob, 0x222, INSTANCE, 1);
    }

    function test_E11_nodes_of_a_dead_root_neither_renew_nor_stay() public {
        enlist(seat, alice, NODE, INSTANCE, 1);
        vm.prank(GUARDIAN);
        reg.revokeRoot(1);
        uint64 deadline = uint64(block.timestamp + 60);
        bytes memory signature = signAnnounce(reg, NODE, seat, 2, deadline, ENDPOINT);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.RootNotLive.selector, 1));
        reg.announce(seat, 2, deadline, ENDPOINT, signature);
        refused(
            proof(seat2, EVIL, INSTANCE2, 1),
            bob,
            abi.encodeWithSelector(IRegistry.RootNotLive.selector, 1)
        );
        uint256[] memory seats = new uint256[](1);
        seats[0] = seat;
        vm.prank(STRANGER);
        reg.sweep(seats);
        eq(reg.activeWeight(), 0, "weight");
        // app keys of the dead root cannot be certified either
        Vm.Wallet memory key = vm.createWallet(0x99);
        bytes memory old = sign(ROOT_SECRET, kmsClaim(APP, key));
        vm.expectRevert(abi.encodeWithSelector(IRegistry.RootNotLive.selector, 1));
        reg.certifyAppKey(APP, bytes32(key.publicKeyX), bytes32(key.publicKeyY), old, 1);
    }

    function test_E12_no_root_is_zero_and_a_failed_recovery_is_no_signer() public {
        vm.prank(OWNER);
        vm.expectRevert(IRegistry.ZeroAddress.selector);
        reg.rotateRoot(address(0), 0);
        address[3] memory bad = [address(0), GUARDIAN, OWNER];
        for (uint256 i = 0; i < 3; ++i) {
            // owner, guardian, root: each zero in turn
            (bool done,) = address(this)
                .call(
                    abi.encodeCall(
                        this.tryDeploy,
                        (
                            i == 0 ? address(0) : bad[2],
                            i == 1 ? address(0) : bad[1],
                            i == 2 ? address(0) : STRANGER
                        )
                    )
                );
            yes(!done, "a deployment with a zero party");
        }
        this.tryDeploy(OWNER, GUARDIAN, STRANGER);
        Vm.Wallet memory key = vm.createWallet(EVIL);
        bytes memory zero = abi.encodePacked(bytes32(0), bytes32(0), uint8(27));
        vm.expectRevert(ECDSA.ECDSAInvalidSignature.selector);
        reg.certifyAppKey(APP, bytes32(key.publicKeyX), bytes32(key.publicKeyY), zero, 1);
        Proof memory p = proof(seat2, EVIL, INSTANCE2, 1);
        p.appSignature = zero;
        refused(p, bob, ECDSA.ECDSAInvalidSignature.selector);
        p = proof(seat2, EVIL, INSTANCE2, 1);
        p.nodeSignature = zero;
        refused(p, bob, ECDSA.ECDSAInvalidSignature.selector);
    }

    function tryDeploy(address owner, address guardian, address root) external {
        deployWith(owner, guardian, root, 1, 1 days);
    }

    function test_E13_nothing_is_allowed_at_first_and_what_was_allowed_can_be_withdrawn() public {
        IDeployed fresh = deploy();
        yes(!fresh.allowedApp(APP), "no app at first");
        yes(!fresh.allowedApp(0), "nor the zero app");
        vm.prank(OWNER);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.AppNotAllowed.selector, bytes20(0)));
        fresh.allowApp(0, true);

        enlist(seat, alice, NODE, INSTANCE, 1);
        vm.prank(OWNER);
        reg.allowApp(APP, false);
        yes(!reg.allowedApp(APP), "withdrawn");
        bytes memory reason = abi.encodeWithSelector(IRegistry.AppNotAllowed.selector, APP);
        refused(proof(seat2, EVIL, INSTANCE2, 1), bob, reason);
        uint64 deadline = uint64(block.timestamp + 60);
        bytes memory signature = signAnnounce(reg, NODE, seat, 2, deadline, ENDPOINT);
        vm.expectRevert(reason);
        reg.announce(seat, 2, deadline, ENDPOINT, signature);
        uint256[] memory seats = new uint256[](1);
        seats[0] = seat;
        reg.sweep(seats);
        eq(reg.activeWeight(), 0, "swept");
    }

    function test_E14_seats_are_granted_not_taken_and_their_number_is_bounded() public {
        vm.prank(STRANGER);
        vm.expectRevert(IRegistry.NotMinter.selector);
        reg.grantSeat(STRANGER, 1);
        for (uint160 i = 3; i <= SEATS_MAX; ++i) {
            grant(address(0x1000 + i), 1);
        }
        vm.prank(OWNER);
        vm.expectRevert(IRegistry.TooManySeats.selector);
        reg.grantSeat(STRANGER, 1);
        vm.prank(OWNER);
        reg.burnSeat(seat);
        grant(STRANGER, 1);
    }

    function test_E15_money_cannot_get_stuck() public {
        vm.deal(STRANGER, 1 ether);
        vm.prank(STRANGER);
        (bool done,) = address(reg).call{value: 1}("");
        yes(!done, "plain transfer");
        vm.deal(OWNER, 1 ether);
        vm.prank(OWNER);
        (done,) = address(reg).call{value: 1}(abi.encodeCall(reg.grantSeat, (STRANGER, 1)));
        yes(!done, "payment with a call");
        eq(address(reg).balance, 0, "balance");
    }

    function test_E17_the_high_s_twins_of_all_four_signatures_are_refused() public {
        Vm.Wallet memory key = vm.createWallet(0x77);
        bytes memory kms = twin(sign(ROOT_SECRET, kmsClaim(APP, key)));
        vm.expectRevert(highS(kms));
        reg.certifyAppKey(APP, bytes32(key.publicKeyX), bytes32(key.publicKeyY), kms, 1);
        Proof memory p = proof(seat, NODE, INSTANCE, 1);
        p.appSignature = twin(p.appSignature);
        refused(p, alice, highS(p.appSignature));
        p = proof(seat, NODE, INSTANCE, 1);
        p.nodeSignature = twin(p.nodeSignature);
        refused(p, alice, highS(p.nodeSignature));
        p = proof(seat, NODE, INSTANCE, 1);
        uint64 deadline = uint64(block.timestamp + 60);
        (, bytes memory good) =
            abi.decode(signAuthorize(ALICE_SECRET, seat, INSTANCE, deadline), (uint64, bytes));
        vm.expectRevert(IRegistry.NotAuthorized.selector);
        reg.register(p.r, p.appSignature, p.nodeSignature, abi.encode(deadline, twin(good)));
        // dstack's own 0/1 in the last byte is not silently taken either
        p.appSignature[64] = bytes1(uint8(p.appSignature[64]) - 27);
        refused(p, alice, ECDSA.ECDSAInvalidSignature.selector);
    }

    function highS(bytes memory signature) private pure returns (bytes memory) {
        (, bytes32 s) = abi.decode(signature, (bytes32, bytes32));
        return abi.encodeWithSelector(ECDSA.ECDSAInvalidSignatureS.selector, s);
    }

    function test_E18_one_key_counts_for_one_seat() public {
        enlist(seat, alice, NODE, INSTANCE, 1);
        // guest API v0 lets one path, hence one key, be claimed for any purpose: even then
        refused(proof(seat2, NODE, INSTANCE2, 1), bob, IRegistry.KeyInUse.selector);
        vm.prank(alice);
        reg.deactivate(seat);
        refused(proof(seat2, NODE, INSTANCE2, 1), bob, IRegistry.KeyInUse.selector);
        // nor when another key sits there, or the seat is gone: a key is of one seat for ever
        enlist(seat, alice, EVIL, INSTANCE, 2);
        refused(proof(seat2, NODE, INSTANCE2, 1), bob, IRegistry.KeyInUse.selector);
        vm.prank(OWNER);
        reg.burnSeat(seat);
        refused(proof(seat2, NODE, INSTANCE2, 1), bob, IRegistry.KeyInUse.selector);
    }

    function test_E19_the_events_alone_rebuild_the_digest() public {
        vm.recordLogs();
        IDeployed old = reg;
        reg = deploy();
        certify(reg, APP, appWallet, ROOT_SECRET, 1);
        vm.prank(OWNER);
        reg.allowApp(APP, true);
        grant(alice, 3);
        grant(bob, 2);
        enlist(1, alice, NODE, INSTANCE, 1);
        enlist(2, bob, EVIL, INSTANCE2, 1);
        vm.prank(OWNER);
        reg.setWeight(1, 9);
        announceAs(NODE, 1, 2, ENDPOINT);
        vm.prank(GUARDIAN);
        reg.deactivate(2);
        sell(1, alice, STRANGER);
        vm.prank(OWNER);
        reg.burnSeat(2);

        Vm.Log[] memory logs = vm.getRecordedLogs();
        bytes32 digest = 0;
        uint64 steps = 0;
        for (uint256 i = 0; i < logs.length; ++i) {
            if (logs[i].topics[0] != IRegistry.NodeChanged.selector) continue;
            (
                uint64 version,
                bytes32 keyX,
                bool keyOdd,
                bytes20 instanceId,
                uint32 weight,
                uint8 status
            ) = abi.decode(logs[i].data, (uint64, bytes32, bool, bytes20, uint32, uint8));
            eq(version, ++steps, "no step is missing");
            digest = keccak256(
                abi.encode(
                    digest,
                    version,
                    block.number,
                    logs[i].topics[1],
                    keyX,
                    keyOdd,
                    instanceId,
                    weight,
                    status
                )
            );
        }
        eq(steps, 9, "nine changes");
        eq(digest, reg.digest(), "digest");
        eq(steps, reg.version(), "version");
        reg = old;
    }

    function test_E20_an_endpoint_has_1_to_128_bytes() public {
        uint256[3] memory lengths = [uint256(0), 129, 24_000];
        for (uint256 i = 0; i < 3; ++i) {
            string memory text = string(new bytes(lengths[i]));
            Proof memory bad = proofOf(reg, seat, NODE, INSTANCE, 1, 0, text);
            refused(bad, alice, IRegistry.BadEndpoint.selector);
        }
        Proof memory p = proofOf(reg, seat, NODE, INSTANCE, 1, 0, string(new bytes(128)));
        vm.prank(alice);
        send(p);
        uint64 deadline = uint64(block.timestamp + 60);
        string memory long = string(new bytes(129));
        bytes memory signature = signAnnounce(reg, NODE, seat, 2, deadline, long);
        vm.expectRevert(IRegistry.BadEndpoint.selector);
        reg.announce(seat, 2, deadline, long, signature);
    }

    function test_E20_a_page_of_the_largest_rows_costs_a_bounded_amount() public {
        // the most that a member can do to the readers: 128 bytes
        Proof memory p = proofOf(reg, seat, NODE, INSTANCE, 1, 0, string(new bytes(128)));
        vm.prank(alice);
        send(p);
        uint256 before = gasleft();
        reg.page(seat, 1);
        yes(before - gasleft() < 40_000, "a row");
    }

    function test_E21_a_bad_member_can_be_put_out() public {
        enlist(seat, alice, NODE, INSTANCE, 1);
        vm.prank(GUARDIAN);
        reg.deactivate(seat);
        eq(reg.activeWeight(), 0, "guardian");
        vm.prank(OWNER);
        reg.burnSeat(seat);
        refused(proof(seat, NODE, INSTANCE, 2), alice, IRegistry.NoSuchSeat.selector);
        eq(reg.balanceOf(alice), 0, "no seat");
    }

    function test_E22_no_byte_of_an_identifier_is_ignored() public {
        // an app id of 32 bytes, whose last 12 a sloppy decoder would drop
        bytes memory call = abi.encodeCall(reg.allowedApp, (APP));
        (bool done,) = address(reg).staticcall(call);
        yes(done, "20 bytes and zeros");
        call[call.length - 1] = 0x01;
        (done,) = address(reg).staticcall(call);
        yes(!done, "dirty tail");
        bytes memory bind = abi.encodeCall(reg.bindInstance, (seat, INSTANCE));
        bind[bind.length - 1] = 0x01;
        vm.prank(alice);
        (done,) = address(reg).call(bind);
        yes(!done, "dirty instance id");
    }

    function testFuzz_E22_a_claim_counts_for_exactly_its_instance(uint8 bit) public {
        Proof memory p = proof(seat, NODE, INSTANCE, 1);
        p.r.instanceId = bytes20(uint160(INSTANCE) ^ (uint160(1) << (bit % 160)));
        refused(p, alice, IRegistry.BadAppKey.selector);
    }

    function test_E23_claims_for_other_purposes_do_not_count() public {
        Vm.Wallet memory key = vm.createWallet(NODE);
        bytes[5] memory texts = [
            bytes("signing"), // dstack's own signing service
            bytes(""),
            purposeText(reg, seat2, INSTANCE),
            purposeText(reg, seat, INSTANCE2),
            bytes.concat(purposeText(reg, seat, INSTANCE), " ")
        ];
        for (uint8 scheme = 0; scheme < 2; ++scheme) {
            for (uint256 i = 0; i < texts.length; ++i) {
                Proof memory p = proofOf(reg, seat, NODE, INSTANCE, 1, scheme, ENDPOINT);
                p.appSignature = sign(APP_SECRET, claimOf(scheme, texts[i], key));
                refused(p, alice, IRegistry.BadAppKey.selector);
            }
        }
    }

    function test_E24_the_empty_instance_id_is_nobodys() public {
        // nothing is bound on either seat: zero must not match that
        refused(proof(seat2, EVIL, 0, 1), bob, IRegistry.BadInstance.selector);
        refused(proof(seat2, EVIL, 0, 1), STRANGER, IRegistry.BadInstance.selector);
        vm.prank(bob);
        reg.bindInstance(seat2, 0);
        refused(proof(seat2, EVIL, 0, 1), STRANGER, IRegistry.BadInstance.selector);
        eq(reg.member(seat).status + reg.member(seat2).status, 0, "no seat shows a node");
    }
}
