// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Domain} from "../src/Domain.sol";
import {Slots} from "../src/Slots.sol";
import {Base} from "./Base.sol";

/// The two short pieces of assembly that every signature and every vote goes through.
contract DomainChecks is Base {
    function check_the_digest_is_that_of_eip712(bytes32 domain, bytes32 structHash) public pure {
        bytes32 have = Domain.digest(domain, structHash);
        assert(have == keccak256(abi.encodePacked(hex"1901", domain, structHash)));
    }

    function check_no_two_registries_share_a_domain(address one, address other) public view {
        vm.assume(Domain.separator(one) == Domain.separator(other));
        assert(one == other);
    }
}

/// A row's first word, as certificates take it apart.
contract SlotsChecks is Base, Slots {
    function check_the_first_word_holds_each_field_in_its_place(
        uint256 seat,
        address signer,
        uint32 weight,
        uint32 since,
        uint16 rootEpoch,
        uint8 appIndex,
        uint8 status
    ) public {
        Node storage n = _nodes[seat];
        (n.signer, n.weight, n.since) = (signer, weight, since);
        (n.rootEpoch, n.appIndex, n.status) = (rootEpoch, appIndex, status);
        uint256 word = _firstWord(seat);
        assert(address(uint160(word)) == signer);
        assert(uint192(word) >> 160 == weight);
        assert(uint32(word >> 192) == since);
        assert(uint16(word >> 224) == rootEpoch);
        assert(uint8(word >> 240) == appIndex);
        assert(word >> 248 == status);
    }
}
