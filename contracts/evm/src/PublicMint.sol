// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

/// What a mint asks of the registry.
interface IRegistryForMint {
    function owner() external view returns (address);
    function grantSeat(address to, uint32 weight) external returns (uint256 seat);
}

/// @title Seats for sale, to whoever pays: closed until the registry's owner opens it.
/// @notice It can do no more than the registry lets its minter do: grant seats up to the weight of
///         `setMinter`. Whoever has many wallets can buy many seats: that weight times the cap should stay
///         well below a third of the cluster's.
contract PublicMint {
    error NotOwner();
    error Closed();
    error SoldOut();
    error OnePerWallet();
    error TooLittle(uint256 price);
    error PaymentFailed();
    error BadConfig();

    event ClusterConfigSet(uint256 price, uint32 cap, uint32 weight, bool open);
    event NodeAccessMinted(address indexed to, uint256 indexed seat, uint256 price);
    event Withdrawn(address indexed to, uint256 amount);

    IRegistryForMint public immutable registry;

    /// @notice Price of a seat in wei.
    uint256 public price;
    /// @notice Most seats ever sold here, and sold so far.
    uint32 public cap;
    uint32 public minted;
    /// @notice Weight of each.
    uint32 public weight;
    bool public open;
    mapping(address wallet => bool) public hasMinted;

    constructor(address registry_) {
        registry = IRegistryForMint(registry_);
    }

    /// @notice Buys a seat for the sender. What is paid above the price comes back.
    function mintNodeAccess() external payable returns (uint256 seat) {
        if (!open) revert Closed();
        if (minted >= cap) revert SoldOut();
        // also who gave its seat away: the registry itself refuses a second one only while it has the first
        if (hasMinted[msg.sender]) revert OnePerWallet();
        uint256 due = price;
        if (msg.value < due) revert TooLittle(due);
        hasMinted[msg.sender] = true;
        ++minted;
        seat = registry.grantSeat(msg.sender, weight);
        emit NodeAccessMinted(msg.sender, seat, due);
        if (msg.value > due) _pay(msg.sender, msg.value - due);
    }

    /// @notice As the registry's owner: terms of the sale.
    function setClusterConfig(uint256 price_, uint32 cap_, uint32 weight_, bool open_) external {
        _onlyOwner();
        if (weight_ == 0) revert BadConfig();
        (price, cap, weight, open) = (price_, cap_, weight_, open_);
        emit ClusterConfigSet(price_, cap_, weight_, open_);
    }

    /// @notice As the registry's owner: takes the money out.
    function withdraw(address to) external {
        _onlyOwner();
        if (to == address(0)) revert BadConfig();
        uint256 amount = address(this).balance;
        emit Withdrawn(to, amount);
        _pay(to, amount);
    }

    function _onlyOwner() private view {
        if (msg.sender != registry.owner()) revert NotOwner();
    }

    function _pay(address to, uint256 amount) private {
        (bool done,) = to.call{value: amount}("");
        if (!done) revert PaymentFailed();
    }
}
