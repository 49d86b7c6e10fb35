// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Boundary} from "../src/Boundary.sol";
import {Certificates} from "../src/Certificates.sol";
import {Domain} from "../src/Domain.sol";
import {ICertificates} from "../src/ICertificates.sol";
import {Cheats} from "./Cheats.sol";

interface Files {
    function readFile(string calldata path) external view returns (string memory);
    function keyExistsJson(string calldata json, string calldata key) external view returns (bool);
    function parseJsonBytes(string calldata json, string calldata key)
        external
        pure
        returns (bytes memory);
    function parseJsonBytes32(string calldata json, string calldata key)
        external
        pure
        returns (bytes32);
    function parseJsonUint(string calldata json, string calldata key)
        external
        pure
        returns (uint256);
    function parseJsonAddress(string calldata json, string calldata key)
        external
        pure
        returns (address);
    function toString(uint256 value) external pure returns (string memory);
    function etch(address at, bytes calldata code) external;
}

/// The members of the vectors, at the address that their domain names.
contract VectorMembers {
    mapping(uint256 seat => uint256 row) public rows;
    uint32 public weight;
    mapping(address signer => uint256 seat) public seatOf;
    uint256 public suspended;

    function set(uint256 seat, uint32 weight_, address signer) external {
        rows[seat] = uint256(weight_) << 160 | uint160(signer);
        seatOf[signer] = seat;
        weight += weight_;
    }

    function electorate(bytes calldata list, uint256 stride, uint64)
        external
        view
        returns (uint256[] memory found, uint32 active, uint16 seats, uint16 recoveries)
    {
        found = new uint256[](list.length / stride);
        for (uint256 i = 0; i < found.length; ++i) {
            found[i] = rows[uint32(bytes4(list[i * stride:]))];
        }
        return (found, 1_000_000, 1000, recoveries);
    }

    function founding(uint256) external view returns (uint64, uint64, uint32) {
        return (3, 1, weight); // the epoch of the vectors' leadership
    }

    function answers(address key)
        external
        view
        returns (uint32, uint32, bool, uint32 active, uint16)
    {
        uint256 seat = seatOf[key];
        return (uint32(seat), uint32(rows[seat] >> 160), true, 1_000_000, 1000);
    }

    function suspend(uint256, uint40) external returns (bool) {
        ++suspended;
        return true;
    }
}

/// The same bytes as consensus: `tests/vectors/votes.json`, which the Python tests write and read.
contract VectorsTest is Cheats {
    Files private constant FILES = Files(address(uint160(uint256(keccak256("hevm cheat code")))));

    string private json;
    bytes32 private domain;
    VectorMembers private members;
    Certificates private court;

    function setUp() public {
        json = FILES.readFile("../../tests/vectors/votes.json");
        members = VectorMembers(FILES.parseJsonAddress(json, ".domain.verifyingContract"));
        FILES.etch(address(members), address(new VectorMembers()).code);
        court = new Certificates(address(members));
        domain = FILES.parseJsonBytes32(json, ".domain.separator");
        for (uint256 i = 0; has(at("members", i)); ++i) {
            members.set(
                number(at("members", i), ".seat"),
                uint32(number(at("members", i), ".weight")),
                FILES.parseJsonAddress(json, string.concat(at("members", i), ".address"))
            );
        }
    }

    function test_the_domain_is_the_cluster_id() public {
        eq(FILES.parseJsonUint(json, ".domain.chainId"), block.chainid, "chain");
        eq(Domain.separator(address(members)), domain, "separator");
    }

    function test_headers_hash_as_in_consensus() public view {
        uint256 i = 0;
        for (; has(at("blocks", i)); ++i) {
            string memory b = at("blocks", i);
            bytes memory header = FILES.parseJsonBytes(json, string.concat(b, ".header"));
            (bytes32 hash, bytes32 bodyHash, uint64 epoch, uint64 term, uint64 index, uint64 seat) =
                this.read(header);
            eq(hash, word(b, ".hash"), "hash");
            eq(bodyHash, word(b, ".bodyHash"), "body hash in the header");
            bytes memory body = FILES.parseJsonBytes(json, string.concat(b, ".body"));
            eq(this.hashBody(body), bodyHash, "body hash");
            eq(epoch, number(b, ".epoch"), "epoch");
            eq(term, number(b, ".term"), "term");
            eq(index, number(b, ".index"), "index");
            eq(seat, number(b, ".proposer"), "proposer");
        }
        yes(i != 0, "blocks");
    }

    function test_exactly_the_conflicts_of_the_vectors_convict() public {
        uint256 count = 0;
        while (has(at("votes", count))) ++count;
        bool[] memory expected = new bool[](count * count);
        uint256 conflicts = 0;
        for (; has(at("conflicts", conflicts)); ++conflicts) {
            uint256 a = number(at("conflicts", conflicts), "[0]");
            uint256 b = number(at("conflicts", conflicts), "[1]");
            expected[a * count + b] = true;
        }
        ICertificates.Vote[] memory votes = new ICertificates.Vote[](count);
        uint256[] memory seats = new uint256[](count);
        for (uint256 i = 0; i < count; ++i) {
            (votes[i], seats[i]) = voteAt(i);
        }
        uint256 found = 0;
        for (uint256 i = 0; i < count; ++i) {
            for (uint256 j = i + 1; j < count; ++j) {
                if (seats[i] != seats[j]) continue;
                (bool done,) = address(court)
                    .call(abi.encodeCall(court.proveConflict, (seats[i], votes[i], votes[j])));
                yes(done == expected[i * count + j], string.concat(at("votes", i), at("votes", j)));
                if (done) ++found;
            }
        }
        eq(found, conflicts, "all of them");
        eq(members.suspended(), conflicts, "each with its effect");
    }

    function test_the_leadership_of_the_vectors_is_one_here() public {
        bytes memory header = FILES.parseJsonBytes(json, ".leadership.header");
        court.recordLeader(header, FILES.parseJsonBytes(json, ".leadership.parts"));
        (uint64 epoch, uint64 term,, uint32 seat,) = court.leader();
        eq(epoch, number(".leadership", ".epoch"), "epoch");
        eq(term, number(".leadership", ".term"), "term");
        eq(seat, number(".leadership", ".leader"), "leader");
    }

    function test_the_boundary_of_the_vectors_names_its_epoch_and_chain_block() public view {
        bytes memory body = FILES.parseJsonBytes(json, ".boundary.body");
        (uint64 epoch, uint64 chainBlock) = this.record(body);
        bytes memory header = FILES.parseJsonBytes(json, ".boundary.header");
        (, bytes32 bodyHash, uint64 before,,,) = this.read(header);
        eq(epoch, before + 1, "the next epoch");
        yes(chainBlock != 0, "a chain block");
        eq(this.hashBody(body), bodyHash, "body hash");
        // cut anywhere, it is refused or says the same: nothing after the head is read
        for (uint256 length = 0; length < body.length; ++length) {
            bytes memory cut = new bytes(length);
            for (uint256 i = 0; i < length; ++i) {
                cut[i] = body[i];
            }
            try this.record(cut) returns (uint64 e, uint64 c) {
                eq(e, epoch, "epoch of a cut body");
                eq(c, chainBlock, "chain block of a cut body");
            } catch {}
        }
    }

    function testFuzz_no_bytes_make_the_reader_run_away(bytes calldata body) public view {
        uint256 before = gasleft();
        try this.record(body) {} catch {}
        yes(before - gasleft() < 100_000 + body.length * 1000, "bounded by the length");
    }

    // ------------------------------------------------------------- reading

    function read(bytes calldata header)
        external
        view
        returns (bytes32, bytes32, uint64 epoch, uint64 term, uint64 index, uint64 proposer)
    {
        (epoch, term, index, proposer) = Boundary.position(header);
        return (
            Boundary.blockHash(domain, header),
            Boundary.bodyHashOf(header),
            epoch,
            term,
            index,
            proposer
        );
    }

    function record(bytes calldata body) external pure returns (uint64, uint64) {
        return Boundary.record(body);
    }

    function hashBody(bytes calldata body) external pure returns (bytes32) {
        return Boundary.bodyHash(body);
    }

    function voteAt(uint256 i) private view returns (ICertificates.Vote memory v, uint256 seat) {
        string memory a = at("votes", i);
        v.kind = uint8(number(a, ".kind"));
        v.epoch = uint64(number(a, ".epoch"));
        v.term = uint64(number(a, ".term"));
        v.index = uint64(number(a, ".index"));
        v.blockHash = word(a, ".blockHash");
        v.reason = uint8(number(a, ".reason"));
        v.r = word(a, ".r");
        v.vs = word(a, ".vs");
        seat = number(a, ".seat");
    }

    function at(string memory list, uint256 i) private pure returns (string memory) {
        return string.concat(".", list, "[", FILES.toString(i), "]");
    }

    function has(string memory key) private view returns (bool) {
        return FILES.keyExistsJson(json, key);
    }

    function number(string memory a, string memory b) private view returns (uint256) {
        return FILES.parseJsonUint(json, string.concat(a, b));
    }

    function word(string memory a, string memory b) private view returns (bytes32) {
        return FILES.parseJsonBytes32(json, string.concat(a, b));
    }
}
