// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {EnumerableSet} from "@openzeppelin/contracts/utils/structs/EnumerableSet.sol";

import {IRules} from "./IRules.sol";

/// What the rules ask of the registry.
interface IRegistryForRules {
    function owner() external view returns (address);
    function guardian() external view returns (address);
    function allowedApp(bytes20 appId) external view returns (bool);
    function expectsInstance(bytes20 instanceId) external view returns (bool);
}

/// @title What may run: the rules for boots, and the attestation policy that members read.
/// @notice Roles are the registry's own, looked up at each call: a change of owner or guardian there is
///         one here. Lists begin empty, so nothing boots until the owner has said what may.
contract Rules is IRules {
    using EnumerableSet for EnumerableSet.Bytes32Set;

    uint256 public constant POLICY_BYTES_MAX = 16_384;
    uint256 public constant LIST_MAX = 64;

    /// @notice The registry whose rules these are.
    IRegistryForRules public immutable registry;

    // Slots 0 and 1 may be proven against a block header.

    /// slot 0
    uint64 private _policyVersion;
    uint64 private _policyBlock;
    uint64 public override revision;
    bool public override allowAnyDevice;
    bool public override requireUpToDate = true;
    bool public override requireSeat;
    /// slot 1
    bytes32 private _policyHash;

    address public override appAuth;
    EnumerableSet.Bytes32Set private _composeHashes;
    EnumerableSet.Bytes32Set private _deviceIds;
    EnumerableSet.Bytes32Set private _osImages;

    modifier onlyOwner() {
        if (msg.sender != registry.owner()) revert NotOwner();
        _;
    }

    /// @dev The app contract checks who calls it: dstack's tools speak to that address.
    modifier ownerOrApp() {
        if (msg.sender != appAuth && msg.sender != registry.owner()) revert NotOwner();
        _;
    }

    modifier mayTakeAway() {
        if (
            msg.sender != appAuth && msg.sender != registry.guardian()
                && msg.sender != registry.owner()
        ) revert NotGuardian();
        _;
    }

    constructor(address registry_) {
        registry = IRegistryForRules(registry_);
    }

    // -------------------------------------------------------------- policy

    /// @inheritdoc IRules
    function setPolicy(string calldata text) external onlyOwner {
        uint256 length = bytes(text).length;
        if (length == 0 || length > POLICY_BYTES_MAX) revert BadPolicy();
        bytes32 hash = keccak256(bytes(text));
        _policyHash = hash;
        _policyBlock = uint64(block.number);
        ++revision;
        emit PolicyChanged(++_policyVersion, hash, text);
    }

    /// @inheritdoc IRules
    function policy() external view returns (uint64 version, uint64 blockNumber, bytes32 hash) {
        return (_policyVersion, _policyBlock, _policyHash);
    }

    // --------------------------------------------------------------- lists

    function addComposeHash(bytes32 composeHash) external ownerOrApp {
        if (_add(_composeHashes, composeHash)) emit ComposeHashAdded(composeHash);
    }

    function removeComposeHash(bytes32 composeHash) external mayTakeAway {
        if (_remove(_composeHashes, composeHash)) emit ComposeHashRemoved(composeHash);
    }

    function addDevice(bytes32 deviceId) external ownerOrApp {
        if (_add(_deviceIds, deviceId)) emit DeviceAdded(deviceId);
    }

    function removeDevice(bytes32 deviceId) external mayTakeAway {
        if (_remove(_deviceIds, deviceId)) emit DeviceRemoved(deviceId);
    }

    /// @inheritdoc IRules
    function addOsImage(bytes32 osImageHash) external onlyOwner {
        if (_add(_osImages, osImageHash)) emit OsImageAdded(osImageHash);
    }

    /// @inheritdoc IRules
    function removeOsImage(bytes32 osImageHash) external mayTakeAway {
        if (_remove(_osImages, osImageHash)) emit OsImageRemoved(osImageHash);
    }

    /// @inheritdoc IRules
    function setBootRules(bool anyDevice, bool upToDate, bool seat) external onlyOwner {
        (allowAnyDevice, requireUpToDate, requireSeat) = (anyDevice, upToDate, seat);
        ++revision;
        emit BootRulesChanged(anyDevice, upToDate, seat);
    }

    /// @inheritdoc IRules
    function setAppAuth(address appAuth_) external onlyOwner {
        appAuth = appAuth_;
        ++revision;
        emit AppAuthNamed(appAuth_);
    }

    function allowedComposeHashes(bytes32 composeHash) external view returns (bool) {
        return _composeHashes.contains(composeHash);
    }

    function allowedDeviceIds(bytes32 deviceId) external view returns (bool) {
        return _deviceIds.contains(deviceId);
    }

    function allowedOsImages(bytes32 osImageHash) external view returns (bool) {
        return _osImages.contains(osImageHash);
    }

    function composeHashes() external view returns (bytes32[] memory) {
        return _composeHashes.values();
    }

    function deviceIds() external view returns (bytes32[] memory) {
        return _deviceIds.values();
    }

    function osImageHashes() external view returns (bytes32[] memory) {
        return _osImages.values();
    }

    // --------------------------------------------------------------- boots

    /// @notice dstack's question. The reasons are dstack's own where it has one.
    /// @dev Of what the KMS tells, only the app id is certain when somebody else asks: it is a view.
    function isAppAllowed(AppBootInfo calldata info)
        external
        view
        returns (bool isAllowed, string memory reason)
    {
        if (!registry.allowedApp(bytes20(info.appId))) return (false, "App not allowed");
        if (requireUpToDate && keccak256(bytes(info.tcbStatus)) != keccak256("UpToDate")) {
            return (false, "TCB status is not up to date");
        }
        if (!_osImages.contains(info.osImageHash)) return (false, "OS image not allowed");
        if (!_composeHashes.contains(info.composeHash)) {
            return (false, "Compose hash not allowed");
        }
        if (!allowAnyDevice && !_deviceIds.contains(info.deviceId)) {
            return (false, "Device not allowed");
        }
        if (requireSeat && !registry.expectsInstance(bytes20(info.instanceId))) {
            return (false, "Instance has no seat");
        }
        return (true, "");
    }

    function _add(EnumerableSet.Bytes32Set storage list, bytes32 value) private returns (bool) {
        if (value == 0) revert ZeroValue();
        if (!list.add(value)) return false;
        if (list.length() > LIST_MAX) revert ListFull();
        ++revision;
        return true;
    }

    function _remove(EnumerableSet.Bytes32Set storage list, bytes32 value) private returns (bool) {
        if (!list.remove(value)) return false;
        ++revision;
        return true;
    }
}
