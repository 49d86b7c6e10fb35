// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";
import {Ownable2Step} from "@openzeppelin/contracts/access/Ownable2Step.sol";
import {Initializable} from "@openzeppelin/contracts/proxy/utils/Initializable.sol";
import {UUPSUpgradeable} from "@openzeppelin/contracts/proxy/utils/UUPSUpgradeable.sol";
import {IERC165} from "@openzeppelin/contracts/utils/introspection/IERC165.sol";

import {IAppAuth, IAppAuthBasicManagement, IRules} from "./IRules.sol";

/// What an app asks of the registry that governs it.
interface IRegistryForApp {
    function rules() external view returns (address);
}

/// @title The contract whose address is the app id.
/// @notice dstack derives an app's keys from this address, so it must outlive every other contract here.
///         It decides nothing: it asks the rules that its registry names. Behind an ERC-1967 proxy; its
///         code may be replaced until `disableUpgrades`, the registry that it asks for ever.
///
///         dstack's tools add and remove compose hashes and devices here; the calls of this contract's
///         owner are handed on to the rules, if the registry's owner named this contract there.
contract AppAuth is
    IAppAuth,
    IAppAuthBasicManagement,
    IERC165,
    Initializable,
    UUPSUpgradeable,
    Ownable2Step
{
    error UpgradesDisabled();
    error ZeroAddress();

    event RegistryNamed(address registry);
    event UpgradesDisabledForGood();

    /// @notice The registry that governs this app.
    address public registry;
    bool public upgradesDisabled;

    /// @dev The implementation itself belongs to nobody and can never be initialized.
    constructor() Ownable(address(1)) {
        _disableInitializers();
    }

    /// @notice Once, by the proxy's constructor.
    function initialize(address initialOwner, address registry_) external initializer {
        if (initialOwner == address(0)) revert ZeroAddress();
        _transferOwnership(initialOwner);
        _setRegistry(registry_);
    }

    // --------------------------------------------------------------- boots

    /// @notice dstack's question: asked of the rules in force. Whatever goes wrong there is a no.
    function isAppAllowed(AppBootInfo calldata bootInfo)
        external
        view
        returns (bool isAllowed, string memory reason)
    {
        if (bootInfo.appId != address(this)) return (false, "Another app's id");
        address rules = IRegistryForApp(registry).rules();
        if (rules == address(0)) return (false, "The registry names no rules");
        return IAppAuth(rules).isAppAllowed(bootInfo);
    }

    function supportsInterface(bytes4 id) external pure returns (bool) {
        return id == type(IAppAuth).interfaceId || id == type(IAppAuthBasicManagement).interfaceId
            || id == type(IERC165).interfaceId;
    }

    // --------------------------------------------------------------- owner

    function addComposeHash(bytes32 composeHash) external onlyOwner {
        _rules().addComposeHash(composeHash);
        emit ComposeHashAdded(composeHash);
    }

    function removeComposeHash(bytes32 composeHash) external onlyOwner {
        _rules().removeComposeHash(composeHash);
        emit ComposeHashRemoved(composeHash);
    }

    function addDevice(bytes32 deviceId) external onlyOwner {
        _rules().addDevice(deviceId);
        emit DeviceAdded(deviceId);
    }

    function removeDevice(bytes32 deviceId) external onlyOwner {
        _rules().removeDevice(deviceId);
        emit DeviceRemoved(deviceId);
    }

    /// @notice Puts the app under another registry.
    function setRegistry(address registry_) external onlyOwner {
        _setRegistry(registry_);
    }

    /// @notice From now on this code stays; there is no way back.
    function disableUpgrades() external onlyOwner {
        upgradesDisabled = true;
        emit UpgradesDisabledForGood();
    }

    /// @notice An app without an owner could never follow its registry: refused.
    function renounceOwnership() public pure override {
        revert OwnableInvalidOwner(address(0));
    }

    // --------------------------------------------- what dstack's tools show

    function allowedComposeHashes(bytes32 composeHash) external view returns (bool) {
        return _rules().allowedComposeHashes(composeHash);
    }

    function allowedDeviceIds(bytes32 deviceId) external view returns (bool) {
        return _rules().allowedDeviceIds(deviceId);
    }

    function allowAnyDevice() external view returns (bool) {
        return _rules().allowAnyDevice();
    }

    // ------------------------------------------------------------- internal

    function _authorizeUpgrade(address) internal view override onlyOwner {
        if (upgradesDisabled) revert UpgradesDisabled();
    }

    function _setRegistry(address registry_) private {
        if (registry_ == address(0)) revert ZeroAddress();
        registry = registry_;
        emit RegistryNamed(registry_);
    }

    function _rules() private view returns (IRules) {
        return IRules(IRegistryForApp(registry).rules());
    }
}
