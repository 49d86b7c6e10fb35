// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

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

/// What a node does when all is well, and the rules that are no attack of their own.
contract RegistryTest is Fixture {
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
        // the old instance is free for another seat
        uint256 second = grant(bob, 1);
        enlist(second, bob, 0x333, INSTANCE1, 1);
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

    // ------------------------------------------------------------------ the rest

    function test_light_clients_find_version_weight_and_digest_where_it_is_promised() public {
        uint256 seat = grant(alice, 6);
        enlist(seat, alice, NODE1, INSTANCE1, 1);
        light(1);
        // what changes no vote leaves the last change where it was, and its digest in a word of its own
        grant(bob, 2);
        light(4);
        grant(STRANGER, 2);
        light(4);
    }

    /// @param at slot of the digest right after the last change of who votes
    function light(uint256 at) private view {
        uint256 word = uint256(vm.load(address(reg), bytes32(0)));
        (uint64 changed, uint64 version, bytes32 digest) = reg.lastChange();
        eq(uint32(word), reg.version(), "version");
        eq(uint32(word >> 32), version, "that of the last change");
        eq(uint48(word >> 64), changed, "its block");
        eq(uint32(word >> 112), reg.activeWeight(), "active");
        eq(uint32(word >> 144), reg.grantedWeight(), "granted");
        eq(uint32(word >> 176), reg.seatCount(), "seats");
        eq(vm.load(address(reg), bytes32(uint256(1))), reg.digest(), "digest");
        eq(vm.load(address(reg), bytes32(at)), digest, "digest of the last change");
    }

    function test_gas_of_the_usual_calls() public {
        grant(alice, 1);
        enlist(1, alice, NODE1, INSTANCE1, 1);
        // every word that calls share was written before, as it is but once in a registry's life
        grant(STRANGER, 1);
        vm.prank(OWNER);
        reg.setWeight(1, 2);
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
