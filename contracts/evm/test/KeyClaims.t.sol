// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {KeyClaims} from "../src/KeyClaims.sol";
import {Vm} from "./Cheats.sol";
import {Fixture, IDeployed} from "./Fixture.sol";

/// The pure part against slow, obvious routines and against values that dstack's own code gave.
contract KeyClaimsTest is Fixture {
    function setUp() public override {}

    function testFuzz_hex_is_what_the_byte_loop_gives(bytes32 word) public pure {
        (bytes32 high, bytes32 low) = KeyClaims.hexOf(word);
        eq(keccak256(bytes.concat(high, low)), keccak256(slowHex(bytes.concat(word))), "hex");
    }

    function test_hex_of_every_byte_value_in_every_place() public pure {
        for (uint256 value = 0; value < 256; ++value) {
            // the value in all 32 places at once, then alone in the first and the last
            uint256 all = value * 0x0101010101010101010101010101010101010101010101010101010101010101;
            testFuzz_hex_is_what_the_byte_loop_gives(bytes32(all));
            testFuzz_hex_is_what_the_byte_loop_gives(bytes32(value));
            testFuzz_hex_is_what_the_byte_loop_gives(bytes32(value << 248));
        }
    }

    function testFuzz_keys_of_real_secrets_are_on_the_curve(uint256 secret) public {
        secret = secret % (type(uint256).max >> 1) + 1;
        Vm.Wallet memory key = vm.createWallet(secret);
        (bytes32 x, bytes32 y) = (bytes32(key.publicKeyX), bytes32(key.publicKeyY));
        yes(KeyClaims.onCurve(x, y), "on the curve");
        eq(KeyClaims.addressOf(x, y), key.addr, "address");
        bytes memory key33 = bytes.concat(KeyClaims.prefixOf(KeyClaims.isOdd(y)), x);
        eq(keccak256(key33), keccak256(compressed(key)), "compressed");
    }

    function testFuzz_other_points_are_not_on_the_curve(bytes32 x, bytes32 y) public pure {
        yes(!KeyClaims.onCurve(x, y), "a random pair is no point");
    }

    function test_points_at_the_edge_of_the_field_are_refused() public pure {
        uint256 p = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEFFFFFC2F;
        yes(!KeyClaims.onCurve(0, 0), "zero");
        yes(!KeyClaims.onCurve(bytes32(p), bytes32(p)), "the prime itself");
        // the same residue, not reduced: a second name for one key
        uint256 x = 1;
        uint256 y = 0x4218F20AE6C646B363DB68605822FB14264CA8D2587FDD6FBC750D587E76A7EE;
        yes(KeyClaims.onCurve(bytes32(x), bytes32(y)), "x = 1");
        yes(!KeyClaims.onCurve(bytes32(x + p), bytes32(y)), "x + p");
        yes(KeyClaims.onCurve(bytes32(x), bytes32(p - y)), "the mirrored point");
        yes(!KeyClaims.onCurve(bytes32(x), bytes32(y + 1)), "next to it");
    }

    function testFuzz_claims_equal_the_obvious_concatenation(
        uint256 secret,
        uint256 seat,
        bytes20 instanceId,
        bytes20 appId
    ) public {
        Vm.Wallet memory key = vm.createWallet(secret % (type(uint256).max >> 1) + 1);
        (bytes32 x, bool odd) = (bytes32(key.publicKeyX), key.publicKeyY % 2 == 1);
        bytes memory text = KeyClaims.purpose(seat, instanceId);
        reg = deployedHere();
        eq(keccak256(text), keccak256(purposeText(reg, seat, instanceId)), "purpose");
        eq(text.length, 87, "purpose length");
        eq(KeyClaims.claimV0(text, x, odd), claimOf(0, text, key), "claim v0");
        eq(KeyClaims.claimV1(text, x, odd), claimOf(1, text, key), "claim v1");
        eq(KeyClaims.kmsClaim(appId, x, odd), kmsClaim(appId, key), "kms claim");
    }

    /// Values of upstream's signature chain test vector (guest API v0) and of its v1 documentation.
    function test_claims_equal_those_of_dstack() public pure {
        bytes32 v0 = KeyClaims.claimV0(
            "signing", 0xf6e0f232f5eb6f4b118960a80c3939ea947b6dc727215aba43451910f2741bb8, true
        );
        eq(v0, 0x06a8bfb9756908b56f1c802bbe5fc2c84bf88b94bca0f48d9763c262e5007af6, "v0");
        bytes32 v1 = KeyClaims.claimV1(
            "node/identity",
            0x27916cb85172645e16a32a0631c0b929da77dbc3c9415509ca2e2e40dbdc44f0,
            true
        );
        eq(v1, 0xc4739d4bd5b31095c763b12d823ab927855a02d9d45821fa58e86a866dc1c0dc, "v1");
        bytes32 kms = KeyClaims.kmsClaim(
            bytes20(hex"a9019d1b2c3d4e5f60718293a4b5c6d7e8f90a1b"),
            0xf8669c2bf08c4deeb712b81d456cd1eadbf97872dfc5d5ca916edf605fc5b6fe,
            true
        );
        address root = ecrecover(
            kms,
            27,
            0x00ac321fbbe6817c5de0720644e936b20046ff1c9226e0558a9c86856e8a1dd0,
            0x6bb7a7efae1cf3ec522553c28627ea96c139d5dc9cdd5a1898c2406c074438d8
        );
        eq(root, 0xc4CfC07621383e38a109B72A570cd021989C439b, "kms root");
    }

    /// `purpose` is internal: as linked into this test it speaks for this contract's address.
    function deployedHere() private view returns (IDeployed) {
        return IDeployed(address(this));
    }
}
