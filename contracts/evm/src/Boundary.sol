// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

/// @title Headers and boundary blocks of the cluster, as consensus encodes them. Pure functions.
library Boundary {
    error Malformed();

    uint256 internal constant HEADER_BYTES = 152;

    /// @notice The hash by which votes name a block.
    function blockHash(bytes32 clusterId, bytes calldata header) internal pure returns (bytes32) {
        return keccak256(abi.encodePacked("dstack-cluster/block/v2", clusterId, header));
    }

    /// @notice The four numbers at the head of a header.
    function position(bytes calldata header)
        internal
        pure
        returns (uint64 epoch, uint64 term, uint64 index, uint64 proposer)
    {
        uint256 word = uint256(bytes32(header[:32]));
        return (uint64(word >> 192), uint64(word >> 128), uint64(word >> 64), uint64(word));
    }

    function parentOf(bytes calldata header) internal pure returns (bytes32) {
        return bytes32(header[40:72]);
    }

    function bodyHashOf(bytes calldata header) internal pure returns (bytes32) {
        return bytes32(header[80:112]);
    }

    /// @notice Hash of a body, as headers hold it.
    function bodyHash(bytes calldata body) internal pure returns (bytes32) {
        return keccak256(abi.encodePacked("dstack-cluster/body/v2", body));
    }

    /// @notice What a boundary block says of the epoch after it.
    /// @dev A body is a msgpack array: commands, nullifications, evidence, record. A boundary has neither
    ///      commands nor evidence. Only the head of the record is read: a quorum checked the rest. The
    ///      fields before it are walked over, never searched, so nothing inside them can pose as it.
    /// @return epoch number of the next epoch
    /// @return chainBlock the chain block whose registry its members come from; 0: those before go on
    function record(bytes calldata body) internal pure returns (uint64 epoch, uint64 chainBlock) {
        if (body.length < 4 || body[0] != 0x94 || body[1] != 0x90) revert Malformed();
        uint256 at = skip(body, 2);
        if (at + 2 > body.length || body[at] != 0x90 || body[at + 1] != 0x96) revert Malformed();
        (epoch, at) = uintAt(body, at + 2);
        (chainBlock, at) = uintAt(body, at);
        // the next field is a hash, 32 bytes: nothing else ends here
        if (at + 34 > body.length || bytes2(body[at:at + 2]) != 0xc420) revert Malformed();
    }

    /// @notice The place after the item at `at`: a number, bytes, nil, or an array of these.
    function skip(bytes calldata data, uint256 at) internal pure returns (uint256) {
        uint256 waiting = 1;
        while (waiting != 0) {
            --waiting;
            if (at >= data.length) revert Malformed();
            uint256 tag = uint8(data[at++]);
            if (tag < 0x80 || tag == 0xc0) continue; // a small number, nil
            if (tag >= 0x90 && tag < 0xa0) waiting += tag & 0x0f;
            else if (tag == 0xc4) at += 1 + bigEndian(data, at, 1);
            else if (tag == 0xc5) at += 2 + bigEndian(data, at, 2);
            else if (tag == 0xcc) at += 1;
            else if (tag == 0xcd) at += 2;
            else if (tag == 0xce) at += 4;
            else if (tag == 0xcf) at += 8;
            else if (tag == 0xdc) (waiting, at) = (waiting + bigEndian(data, at, 2), at + 2);
            else revert Malformed();
        }
        if (at > data.length) revert Malformed();
        return at;
    }

    /// @notice The unsigned number at `at`, and the place after it.
    function uintAt(bytes calldata data, uint256 at) internal pure returns (uint64 value, uint256) {
        if (at >= data.length) revert Malformed();
        uint256 tag = uint8(data[at++]);
        if (tag < 0x80) return (uint64(tag), at);
        if (tag < 0xcc || tag > 0xcf) revert Malformed();
        uint256 size = 1 << (tag - 0xcc);
        return (uint64(bigEndian(data, at, size)), at + size);
    }

    function bigEndian(bytes calldata data, uint256 at, uint256 size)
        internal
        pure
        returns (uint256)
    {
        if (at + size > data.length) revert Malformed();
        return uint256(bytes32(data[at:at + size])) >> (256 - 8 * size);
    }
}
