// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IRegistry} from "../src/IRegistry.sol";
import {PublicMint} from "../src/PublicMint.sol";
import {Fixture} from "./Fixture.sol";

/// A buyer that tries to buy again while its change is paid back.
contract GreedyBuyer {
    PublicMint private immutable MINT;
    bool public triedAgain;
    bool public gotTwo;

    constructor(PublicMint mint) {
        MINT = mint;
    }

    function buy() external payable {
        MINT.mintNodeAccess{value: msg.value}();
    }

    receive() external payable {
        triedAgain = true;
        try MINT.mintNodeAccess{value: msg.value}() {
            gotTwo = true;
        } catch {}
    }
}

/// A buyer that takes no change.
contract StubbornBuyer {
    function buy(PublicMint mint) external payable {
        mint.mintNodeAccess{value: msg.value}();
    }
}

contract PublicMintTest is Fixture {
    uint256 internal constant PRICE = 0.1 ether;

    PublicMint internal mint;

    function setUp() public override {
        super.setUp();
        mint = new PublicMint(address(reg));
        vm.deal(alice, 10 ether);
        vm.deal(bob, 10 ether);
    }

    function opened(uint32 cap, uint32 weight) private {
        vm.prank(OWNER);
        reg.setMinter(address(mint), 1);
        vm.prank(OWNER);
        mint.setClusterConfig(PRICE, cap, weight, true);
    }

    function buy(address who, uint256 value) private returns (uint256) {
        vm.prank(who);
        return mint.mintNodeAccess{value: value}();
    }

    function test_E14_it_is_closed_at_first_and_then_sells_up_to_its_cap_one_per_wallet() public {
        vm.prank(alice);
        vm.expectRevert(PublicMint.Closed.selector);
        mint.mintNodeAccess{value: PRICE}();
        opened(1, 1);
        vm.prank(alice);
        vm.expectRevert(abi.encodeWithSelector(PublicMint.TooLittle.selector, PRICE));
        mint.mintNodeAccess{value: PRICE - 1}();
        uint256 seat = buy(alice, PRICE);
        eq(reg.ownerOf(seat), alice, "hers");
        eq(reg.member(seat).weight, 1, "weight");
        vm.prank(bob);
        vm.expectRevert(PublicMint.SoldOut.selector);
        mint.mintNodeAccess{value: PRICE}();
        opened(9, 1);
        vm.prank(alice);
        vm.expectRevert(PublicMint.OnePerWallet.selector);
        mint.mintNodeAccess{value: PRICE}();
        // nor after she gave it away
        sell(seat, alice, STRANGER);
        vm.prank(alice);
        vm.expectRevert(PublicMint.OnePerWallet.selector);
        mint.mintNodeAccess{value: PRICE}();
        // who has a seat from elsewhere gets no second one here
        grant(bob, 5);
        vm.prank(bob);
        vm.expectRevert(IRegistry.WalletHasSeat.selector);
        mint.mintNodeAccess{value: PRICE}();
        yes(!mint.hasMinted(bob), "and the refused purchase left nothing");
    }

    function test_E14_it_grants_no_more_than_the_registry_lets_it() public {
        opened(9, 2);
        vm.prank(alice);
        vm.expectRevert(IRegistry.NotMinter.selector);
        mint.mintNodeAccess{value: PRICE}();
        opened(9, 1);
        buy(alice, PRICE);
        vm.prank(OWNER);
        reg.setMinter(address(0), 0);
        vm.prank(bob);
        vm.expectRevert(IRegistry.NotMinter.selector);
        mint.mintNodeAccess{value: PRICE}();
    }

    function testFuzz_E15_what_is_paid_too_much_comes_back_and_the_rest_can_be_withdrawn(uint256 value)
        public
    {
        opened(9, 1);
        value = PRICE + value % 5 ether;
        uint256 before = alice.balance;
        buy(alice, value);
        eq(alice.balance, before - PRICE, "change");
        eq(address(mint).balance, PRICE, "money");
        vm.prank(alice);
        vm.expectRevert(PublicMint.NotOwner.selector);
        mint.withdraw(alice);
        vm.prank(OWNER);
        vm.expectRevert(PublicMint.BadConfig.selector);
        mint.withdraw(address(0));
        vm.prank(OWNER);
        mint.withdraw(address(0xCAFE));
        eq(address(0xCAFE).balance, PRICE, "withdrawn");
        (bool done,) = address(mint).call{value: 0}("");
        yes(!done, "no money without a purchase");
    }

    function test_a_buyer_that_calls_again_while_it_is_paid_back_gets_one_seat() public {
        opened(9, 1);
        GreedyBuyer buyer = new GreedyBuyer(mint);
        vm.prank(alice);
        buyer.buy{value: 3 * PRICE}();
        yes(buyer.triedAgain() && !buyer.gotTwo(), "tried in vain");
        eq(reg.balanceOf(address(buyer)), 1, "one seat");
        eq(address(mint).balance, PRICE, "one price");
    }

    function test_a_buyer_that_takes_no_change_buys_with_the_exact_price_only() public {
        opened(9, 1);
        StubbornBuyer buyer = new StubbornBuyer();
        vm.prank(alice);
        vm.expectRevert(PublicMint.PaymentFailed.selector);
        buyer.buy{value: PRICE + 1}(mint);
        vm.prank(alice);
        buyer.buy{value: PRICE}(mint);
        vm.prank(OWNER);
        vm.expectRevert(PublicMint.PaymentFailed.selector);
        mint.withdraw(address(buyer));
        eq(address(mint).balance, PRICE, "still there");
    }

    function test_only_the_registrys_owner_sets_the_terms() public {
        vm.prank(GUARDIAN);
        vm.expectRevert(PublicMint.NotOwner.selector);
        mint.setClusterConfig(0, 100, 1, true);
        vm.prank(OWNER);
        vm.expectRevert(PublicMint.BadConfig.selector);
        mint.setClusterConfig(0, 100, 0, true);
    }
}
