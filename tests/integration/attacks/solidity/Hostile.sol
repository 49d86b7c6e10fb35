// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

/// @title A wallet that is a contract and calls back whenever it is called: for money, for a seat, for its
///        signature. For tests only.
contract Hostile {
    address private _at;
    bytes private _again;
    bool private _inside;
    bool private _refuses;

    /// @notice How often it was called back, and how often its own call then went through.
    uint256 public calledBack;
    uint256 public gotThrough;

    /// @notice What to call from inside; `refuses`: and then to fail.
    function arm(address at, bytes calldata again, bool refuses) external {
        (_at, _again, _refuses) = (at, again, refuses);
    }

    function act(address to, bytes calldata data) external payable {
        (bool done, bytes memory answer) = to.call{value: msg.value}(data);
        if (done) return;
        assembly ("memory-safe") {
            revert(add(answer, 32), mload(answer))
        }
    }

    receive() external payable {
        _callBack();
    }

    function onERC721Received(address, address, uint256, bytes calldata) external returns (bytes4) {
        _callBack();
        return this.onERC721Received.selector;
    }

    /// @notice Says yes to everything (ERC-1271), and tries to use the moment.
    function isValidSignature(bytes32, bytes calldata) external returns (bytes4) {
        if (_at != address(0)) {
            (bool done,) = _at.call(_again);
            require(!done, "a call from inside a static call");
        }
        return this.isValidSignature.selector;
    }

    function _callBack() private {
        if (_at == address(0) || _inside) return;
        _inside = true;
        ++calledBack;
        (bool done,) = _at.call(_again);
        if (done) ++gotThrough;
        _inside = false;
        require(!_refuses, "hostile");
    }
}
