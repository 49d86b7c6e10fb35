// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";

import {IRegistry} from "./IRegistry.sol";
import {KeyClaims} from "./KeyClaims.sol";
import {Ledger} from "./Ledger.sol";

/// @title Whom the registry believes: KMS roots by epoch, allowed apps, certified app keys.
/// @notice Validity is looked up at use, never copied: one write ends a root with all its nodes.
abstract contract TrustAnchors is Ledger {
    struct Root {
        address signer;
        uint40 validUntil; // live while block time is below; 0 once revoked
    }

    struct App {
        bytes20 id;
        bool allowed;
    }

    struct AppKey {
        bytes20 appId;
        uint16 rootEpoch;
    }

    uint40 private constant NO_END = type(uint40).max;

    uint16 private _currentRootEpoch;
    mapping(uint16 epoch => Root) private _roots;
    /// Nodes keep a one-byte number of their app in place of its 20-byte id, which saves them a word.
    mapping(uint8 index => App) private _apps;
    mapping(bytes20 appId => uint8) private _appIndex;
    uint8 private _appCount; // 255 apps ever: checked arithmetic refuses more
    mapping(address => AppKey) private _appKeys;

    /// @inheritdoc IRegistry
    function certifyAppKey(
        bytes20 appId,
        bytes32 x,
        bytes32 y,
        bytes calldata kmsSignature,
        uint16 rootEpoch
    ) external {
        if (appId == 0) revert BadAppKey();
        if (!KeyClaims.onCurve(x, y)) revert NotOnCurve();
        _requireLiveRoot(rootEpoch);
        bytes32 claim = KeyClaims.kmsClaim(appId, x, KeyClaims.isOdd(y));
        // recoverCalldata never returns zero, and no live root is zero
        if (ECDSA.recoverCalldata(claim, kmsSignature) != _roots[rootEpoch].signer) {
            revert BadSignature();
        }
        address key = KeyClaims.addressOf(x, y);
        AppKey memory have = _appKeys[key];
        // A root in its grace period must not take a key over that a newer live root certified.
        if (have.appId != 0 && have.rootEpoch >= rootEpoch && _rootLive(have.rootEpoch)) {
            if (have.appId != appId) revert BadAppKey();
            return;
        }
        _appKeys[key] = AppKey(appId, rootEpoch);
        emit AppKeyCertified(key, appId, rootEpoch);
    }

    /// @inheritdoc IRegistry
    function currentRootEpoch() external view returns (uint16) {
        return _currentRootEpoch;
    }

    /// @inheritdoc IRegistry
    function root(uint16 epoch) external view returns (address signer, uint40 validUntil) {
        Root memory r = _roots[epoch];
        return (r.signer, r.validUntil);
    }

    /// @inheritdoc IRegistry
    function allowedApp(bytes20 appId) external view returns (bool) {
        return _apps[_appIndex[appId]].allowed;
    }

    /// @inheritdoc IRegistry
    function appKey(address appKeyAddress) external view returns (bytes20 appId, uint16 rootEpoch) {
        AppKey memory k = _appKeys[appKeyAddress];
        return (k.appId, k.rootEpoch);
    }

    // ------------------------------------------------------------- changes

    function _rotateRoot(address newRoot, uint40 graceUntil) internal {
        if (newRoot == address(0)) revert ZeroAddress();
        uint16 epoch = _currentRootEpoch;
        Root storage previous = _roots[epoch];
        // min: a rotation never brings a revoked root back
        if (graceUntil < previous.validUntil) previous.validUntil = graceUntil;
        uint40 previousValidUntil = previous.validUntil;
        _currentRootEpoch = ++epoch;
        _roots[epoch] = Root(newRoot, NO_END);
        emit RootRotated(epoch, newRoot, previousValidUntil);
    }

    function _revokeRoot(uint16 epoch) internal {
        _requireLiveRoot(epoch);
        _roots[epoch].validUntil = 0;
        emit RootRevoked(epoch);
    }

    function _allowApp(bytes20 appId, bool allowed) internal {
        if (appId == 0) revert AppNotAllowed(appId);
        uint8 index = _appIndex[appId];
        if (index == 0) {
            index = ++_appCount;
            _appIndex[appId] = index;
        }
        _apps[index] = App(appId, allowed);
        emit AppAllowed(appId, allowed);
    }

    // -------------------------------------------------------------- checks

    /// @dev Who signed the claim: a certified key, of an allowed app, under a live root, or revert.
    function _requireAppKey(bytes32 claim, bytes calldata appSignature)
        internal
        view
        returns (uint8 appIndex, uint16 rootEpoch)
    {
        AppKey memory key = _appKeys[ECDSA.recoverCalldata(claim, appSignature)];
        if (key.appId == 0) revert BadAppKey();
        appIndex = _appIndex[key.appId];
        rootEpoch = key.rootEpoch;
        if (!_apps[appIndex].allowed) revert AppNotAllowed(key.appId);
        _requireLiveRoot(rootEpoch);
    }

    function _requireLiveAnchors(uint8 appIndex, uint16 rootEpoch) internal view {
        App memory app = _apps[appIndex];
        if (!app.allowed) revert AppNotAllowed(app.id);
        _requireLiveRoot(rootEpoch);
    }

    function _anchorsLive(uint8 appIndex, uint16 rootEpoch) internal view returns (bool) {
        return _apps[appIndex].allowed && _rootLive(rootEpoch);
    }

    function _requireLiveRoot(uint16 epoch) private view {
        if (!_rootLive(epoch)) revert RootNotLive(epoch);
    }

    function _rootLive(uint16 epoch) private view returns (bool) {
        return block.timestamp < _roots[epoch].validUntil;
    }
}
