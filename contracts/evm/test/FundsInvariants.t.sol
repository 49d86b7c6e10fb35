// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {PublicMint} from "../src/PublicMint.sol";
import {Fixture} from "./Fixture.sol";

/// Buyers, thieves and an owner that changes the terms: forge calls these in any order with any
/// numbers. Each notes what the money did, by its own count.
contract Market is Fixture {
    uint256 internal constant WALLETS = 5;
    address public constant TREASURY = address(0x7EA5);

    PublicMint public mint;
    uint256 public sales;
    uint256 public withdrawals;
    uint256 public taken;
    uint256 public donated;
    uint256 public withdrawn;
    /// A buyer paid another sum than the price, or paid and got nothing.
    bool public wronged;
    /// Somebody else than the owner set terms or took money out.
    bool public robbed;
    /// A seat was sold against the terms of that moment.
    bool public oversold;
    mapping(address wallet => bool) private _bought;

    constructor() {
        setUp();
        mint = new PublicMint(address(reg));
        vm.prank(OWNER);
        reg.setMinter(address(mint), 3);
    }

    function buy(uint256 who, uint96 value) external {
        address buyer = _wallet(who);
        value %= 4 ether;
        (uint256 price, uint32 cap, bool open) = (mint.price(), mint.cap(), mint.open());
        uint256 seats = reg.balanceOf(buyer);
        vm.deal(buyer, value);
        vm.prank(buyer);
        try mint.mintNodeAccess{value: value}() {
            if (buyer.balance + price != value || reg.balanceOf(buyer) != seats + 1) {
                wronged = true;
            }
            if (!open || sales >= cap || _bought[buyer]) oversold = true;
            _bought[buyer] = true;
            ++sales;
            taken += price;
        } catch {
            if (buyer.balance != value) wronged = true;
        }
    }

    function terms(uint256 who, uint96 price, uint32 cap, uint32 weight, bool open) external {
        address sender = _anybody(who);
        vm.prank(sender);
        try mint.setClusterConfig(price % 2 ether, cap % 8, 1 + weight % 4, open || cap % 4 != 0) {
            if (sender != OWNER) robbed = true;
        } catch {}
    }

    function withdraw(uint256 who) external {
        address sender = _anybody(who);
        uint256 before = TREASURY.balance;
        vm.prank(sender);
        try mint.withdraw(TREASURY) {
            if (sender != OWNER) robbed = true;
            ++withdrawals;
        } catch {}
        withdrawn += TREASURY.balance - before;
    }

    /// A contract that ends itself can press money on any other.
    function donate(uint96 value) external {
        value %= 1 ether;
        donated += value;
        vm.deal(address(mint), address(mint).balance + value);
    }

    function send(uint256 who, uint96 value) external {
        address sender = _wallet(who);
        vm.deal(sender, value);
        vm.prank(sender);
        (bool done,) = address(mint).call{value: value}("");
        if (done) wronged = true;
    }

    function giveAway(uint256 who) external {
        vm.prank(OWNER);
        reg.setTransfersAllowed(true);
        address from = _wallet(who);
        uint256 count = reg.seatCount();
        for (uint256 seat = 1; seat <= count; ++seat) {
            try reg.ownerOf(seat) returns (address owner) {
                if (owner != from) continue;
                vm.prank(from);
                try reg.transferFrom(from, address(uint160(0x8000 + seat)), seat) {} catch {}
            } catch {}
        }
    }

    function burn(uint256 seat) external {
        vm.prank(OWNER);
        try reg.burnSeat(1 + seat % (reg.seatCount() + 1)) {} catch {}
    }

    function _wallet(uint256 who) private pure returns (address) {
        return address(uint160(0x7000 + who % WALLETS));
    }

    function _anybody(uint256 who) private pure returns (address) {
        return who % 2 == 0 ? OWNER : who % 4 == 1 ? GUARDIAN : _wallet(who);
    }
}

/// What holds of the money after every call, whatever was called before.
contract FundsInvariantsTest is Fixture {
    struct FuzzSelector {
        address addr;
        bytes4[] selectors;
    }

    Market internal market;
    PublicMint internal mint;

    function setUp() public override {
        market = new Market();
        mint = market.mint();
        market.terms(0, 0.5 ether, 7, 0, true);
        market.buy(0, 1 ether);
        market.withdraw(0);
        eq(market.sales() + market.withdrawals(), 2, "a market that is open");
    }

    function targetContracts() external view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(market);
    }

    function targetSelectors() external view returns (FuzzSelector[] memory targets) {
        targets = new FuzzSelector[](1);
        bytes4[] memory s = new bytes4[](9);
        (s[0], s[1], s[2]) = (Market.buy.selector, Market.terms.selector, Market.withdraw.selector);
        (s[3], s[4], s[5]) = (Market.donate.selector, Market.send.selector, Market.burn.selector);
        (s[6], s[7], s[8]) = (Market.giveAway.selector, Market.buy.selector, Market.buy.selector);
        targets[0] = FuzzSelector(address(market), s);
    }

    function invariant_the_mint_holds_what_was_paid_less_what_was_taken_out() public view {
        uint256 came = market.taken() + market.donated();
        eq(address(mint).balance + market.withdrawn(), came, "money");
        yes(!market.wronged(), "every buyer pays the price and gets the rest back");
    }

    function invariant_only_the_owner_takes_money_out_and_sets_the_terms() public view {
        yes(!market.robbed(), "somebody else did");
    }

    function invariant_seats_are_sold_by_the_terms_and_once_to_a_wallet() public view {
        yes(!market.oversold(), "against the terms");
        eq(mint.minted(), market.sales(), "sold");
    }
}
