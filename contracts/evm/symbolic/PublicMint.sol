// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {PublicMint} from "../src/PublicMint.sol";
import {Base} from "./Base.sol";

/// The sale of seats for any price, cap, payment and balance; this contract is the registry.
contract PublicMintChecks is Base {
    address private constant BUYER = address(0xB0);
    address private constant TREASURY = address(0x7E);

    PublicMint private mint = new PublicMint(address(this));

    function owner() external view returns (address) {
        return address(this);
    }

    function grantSeat(address, uint32) external pure returns (uint256) {
        return 1;
    }

    function check_a_sale_keeps_the_price_and_pays_back_the_rest(
        uint96 price,
        uint32 cap,
        uint32 weight,
        bool open,
        uint96 taken,
        uint96 value
    ) public {
        vm.assume(weight != 0);
        mint.setClusterConfig(price, cap, weight, open);
        vm.deal(address(mint), taken);
        vm.deal(BUYER, value);
        vm.prank(BUYER);
        try mint.mintNodeAccess{value: value}() {
            assert(open && cap > 0 && value >= price);
            assert(address(mint).balance == uint256(taken) + price);
            assert(BUYER.balance == uint256(value) - price);
            assert(mint.minted() == 1 && mint.hasMinted(BUYER));
        } catch {
            assert(!open || cap == 0 || value < price);
            assert(address(mint).balance == taken && BUYER.balance == value);
            assert(mint.minted() == 0 && !mint.hasMinted(BUYER));
        }
    }

    function check_only_the_owner_takes_money_out_or_sets_the_terms(
        address caller,
        uint96 taken,
        uint96 price,
        uint32 cap,
        uint32 weight
    ) public {
        vm.assume(caller != address(this));
        vm.deal(address(mint), taken);
        vm.prank(caller);
        try mint.withdraw(TREASURY) {
            assert(false);
        } catch {}
        vm.prank(caller);
        try mint.setClusterConfig(price, cap, weight, true) {
            assert(false);
        } catch {}
        assert(address(mint).balance == taken && !mint.open());
        mint.withdraw(TREASURY);
        assert(address(mint).balance == 0 && TREASURY.balance == taken);
    }
}
