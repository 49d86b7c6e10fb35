// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

/// @title dstack's question to the contract of an app: may this machine have the app's keys?
/// @dev ERC-165 id 0x1e079198. The struct's order of fields is part of the selector's meaning.
interface IAppAuth {
    struct AppBootInfo {
        address appId;
        bytes32 composeHash;
        address instanceId;
        bytes32 deviceId;
        bytes32 mrAggregated;
        bytes32 mrSystem;
        bytes32 osImageHash;
        string tcbStatus;
        string[] advisoryIds;
    }

    /// @return isAllowed whether the KMS may hand out the app's keys
    /// @return reason in words, when it may not
    function isAppAllowed(AppBootInfo calldata bootInfo)
        external
        view
        returns (bool isAllowed, string memory reason);
}

/// @title What dstack's tools call on the contract of an app.
/// @dev ERC-165 id 0x8fd37527.
interface IAppAuthBasicManagement {
    event ComposeHashAdded(bytes32 composeHash);
    event ComposeHashRemoved(bytes32 composeHash);
    event DeviceAdded(bytes32 deviceId);
    event DeviceRemoved(bytes32 deviceId);

    function addComposeHash(bytes32 composeHash) external;
    function removeComposeHash(bytes32 composeHash) external;
    function addDevice(bytes32 deviceId) external;
    function removeDevice(bytes32 deviceId) external;
}

/// @title What may run: the rules for boots, and the attestation policy that members read.
/// @notice Replaceable: the registry names the one in force (`rules()`). The registry's owner sets,
///         its guardian may only take away.
interface IRules is IAppAuth, IAppAuthBasicManagement {
    /// Not the registry's owner, nor the app contract that it named.
    error NotOwner();
    error NotGuardian();
    /// Empty, or longer than `POLICY_BYTES_MAX`.
    error BadPolicy();
    error ZeroValue();
    /// More than `LIST_MAX` entries.
    error ListFull();

    /// @notice The whole policy is in the event: whoever has it and `policy()` has proof of it.
    /// @param version 1, 2, 3, ...
    /// @param hash keccak256 of the text's bytes
    event PolicyChanged(uint64 indexed version, bytes32 hash, string text);
    event OsImageAdded(bytes32 osImageHash);
    event OsImageRemoved(bytes32 osImageHash);
    event BootRulesChanged(bool allowAnyDevice, bool requireUpToDate, bool requireSeat);
    event AppAuthNamed(address appAuth);

    // ------------------------------------------------------------- reading

    /// @notice The attestation policy in force; version 0 while there is none.
    /// @return version of the policy
    /// @return blockNumber the block with the `PolicyChanged` of that version
    /// @return hash keccak256 of the text
    function policy() external view returns (uint64 version, uint64 blockNumber, bytes32 hash);
    /// @notice Counts every change of the policy, the lists and the flags.
    function revision() external view returns (uint64);
    function allowedComposeHashes(bytes32 composeHash) external view returns (bool);
    function allowedDeviceIds(bytes32 deviceId) external view returns (bool);
    function allowedOsImages(bytes32 osImageHash) external view returns (bool);
    /// @return all entries, at most `LIST_MAX`, in no order
    function composeHashes() external view returns (bytes32[] memory);
    function deviceIds() external view returns (bytes32[] memory);
    function osImageHashes() external view returns (bytes32[] memory);
    function allowAnyDevice() external view returns (bool);
    /// @notice Whether a boot needs the TCB status "UpToDate".
    function requireUpToDate() external view returns (bool);
    /// @notice Whether a boot needs a seat: the instance is bound to one, or its node is on one.
    function requireSeat() external view returns (bool);
    /// @notice The app contract whose owner's word on the lists counts here.
    function appAuth() external view returns (address);

    // ------------------------------------------------------------ registry's owner

    /// @param text the policy document, 1 to 16384 bytes
    function setPolicy(string calldata text) external;
    function addOsImage(bytes32 osImageHash) external;
    function setBootRules(bool allowAnyDevice, bool requireUpToDate, bool requireSeat) external;
    function setAppAuth(address appAuth) external;

    // ------------------------------------------------------------ guardian too

    function removeOsImage(bytes32 osImageHash) external;
}
