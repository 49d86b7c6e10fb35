// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {KeyClaims} from "../src/KeyClaims.sol";
import {Base} from "./Base.sol";

/// The texts that dstack signs, for every key, seat and instance.
contract KeyClaimsChecks is Base {
    function check_hex_is_what_digit_by_digit_gives(bytes32 word) public pure {
        (bytes32 high, bytes32 low) = KeyClaims.hexOf(word);
        uint256 wantHigh = 0;
        uint256 wantLow = 0;
        for (uint256 i = 0; i < 32; ++i) {
            wantLow |= digit(uint256(word) >> (4 * i) & 15) << (8 * i);
            wantHigh |= digit(uint256(word) >> (128 + 4 * i) & 15) << (8 * i);
        }
        assert(uint256(high) == wantHigh);
        assert(uint256(low) == wantLow);
    }

    function check_a_compressed_key_keeps_the_parity(bytes32 y) public pure {
        bytes1 prefix = KeyClaims.prefixOf(KeyClaims.isOdd(y));
        assert(uint8(prefix) == 2 + uint256(y) % 2);
    }

    function check_claim_v0_is_purpose_colon_hex_of_the_key(
        uint256 seat,
        bytes20 instanceId,
        bytes32 x,
        bool odd
    ) public view {
        bytes memory text = KeyClaims.purpose(seat, instanceId);
        bytes memory key = bytes.concat(slowHex(odd ? 3 : 2, 1), slowHex(uint256(x), 32));
        assert(KeyClaims.claimV0(text, x, odd) == keccak256(bytes.concat(text, ":", key)));
    }

    function check_claim_v1_is_four_fields_behind_their_lengths(
        uint256 seat,
        bytes20 instanceId,
        bytes32 x,
        bool odd
    ) public view {
        bytes memory text = KeyClaims.purpose(seat, instanceId);
        bytes memory start =
            bytes.concat(hex"00000019", "dstack-guest-v1-key-claim", hex"00000009", "secp256k1");
        bytes memory key = bytes.concat(bytes1(odd ? 3 : 2), x);
        assert(
            KeyClaims.claimV1(text, x, odd)
                == keccak256(bytes.concat(start, hex"00000057", text, hex"00000021", key))
        );
    }

    function check_no_two_seats_or_instances_share_a_purpose(
        uint256 seat,
        bytes20 instanceId,
        uint256 otherSeat,
        bytes20 otherInstanceId
    ) public view {
        bytes memory one = KeyClaims.purpose(seat, instanceId);
        bytes memory other = KeyClaims.purpose(otherSeat, otherInstanceId);
        vm.assume(keccak256(one) == keccak256(other));
        assert(seat == otherSeat && instanceId == otherInstanceId);
    }

    function check_a_kms_claim_speaks_of_one_app_and_one_key(
        bytes20 appId,
        bytes32 x,
        bool odd,
        bytes20 otherApp,
        bytes32 otherX,
        bool otherOdd
    ) public pure {
        vm.assume(
            KeyClaims.kmsClaim(appId, x, odd) == KeyClaims.kmsClaim(otherApp, otherX, otherOdd)
        );
        assert(appId == otherApp && x == otherX && odd == otherOdd);
    }
}
