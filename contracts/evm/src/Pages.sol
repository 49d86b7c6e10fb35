// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {ERC721} from "@openzeppelin/contracts/token/ERC721/ERC721.sol";

import {Electorate} from "./Electorate.sol";
import {IRegistry} from "./IRegistry.sol";

/// @title Rows as readers get them: one, or a page of many.
abstract contract Pages is Electorate, ERC721 {
    /// @inheritdoc IRegistry
    function page(uint256 from, uint256 count)
        external
        view
        returns (Member[] memory members, uint256 next)
    {
        uint256 last = _seatCount;
        if (from == 0) from = 1;
        if (from > last) return (members, 0);
        uint256 end = last + 1;
        if (count < end - from) {
            end = from + count;
            next = end;
        }
        uint256 found = 0;
        for (uint256 seat = from; seat < end; ++seat) {
            if (_nodes[seat].weight != 0) ++found;
        }
        members = new Member[](found);
        found = 0;
        for (uint256 seat = from; seat < end; ++seat) {
            if (_nodes[seat].weight != 0) members[found++] = _row(seat);
        }
    }

    /// @inheritdoc IRegistry
    function member(uint256 seat) external view returns (Member memory) {
        if (_nodes[seat].weight == 0) revert NoSuchSeat();
        return _row(seat);
    }

    function _row(uint256 seat) private view returns (Member memory) {
        Node storage n = _nodes[seat];
        return Member({
            seat: seat,
            owner: _ownerOf(seat),
            weight: n.weight,
            status: n.status,
            rootEpoch: n.rootEpoch,
            scheme: n.form >> 1,
            keyOdd: n.form & 1 == 1,
            expiresAt: n.expiresAt,
            incarnation: n.incarnation,
            instanceId: n.instanceId,
            keyX: n.keyX,
            signer: n.signer,
            endpoint: n.endpoint
        });
    }
}
