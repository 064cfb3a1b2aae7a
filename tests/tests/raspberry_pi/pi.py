"""A Raspberry Pi's boot ROM, as far as the network sees it: what it sends, in its order, and what it must get.

    pi.py rom|eeprom INTERFACE MAC SERIAL SERVER DIRECTORY

`rom` is a Pi 3, whose ROM takes the first offer without a REQUEST; `eeprom` a Pi 4, whose REQUEST has no vendor class.
The packets are those of public captures. DIRECTORY holds what the server serves.
"""

import socket
import struct
import subprocess
import sys
from pathlib import Path

KIND, INTERFACE, MAC, SERIAL, SERVER, DIRECTORY = sys.argv[1:]
HARDWARE = bytes.fromhex(MAC.replace(":", ""))
XID = bytes.fromhex("26f30339")
CLASS = b"PXEClient:Arch:00000:UNDI:002001"
WANTED = bytes([1, 3, 43, 60, 66, 67, *range(128, 136)])
# What dnsmasq answers to `pxe-service=0,"Raspberry Pi Boot"`, and the ROM looks for.
MENU = bytes([6, 1, 3, 10, 4, 0, 80, 88, 69, 9, 20, 0, 0, 17]) + b"Raspberry Pi Boot" + b"\xff"


def uuid():
    number = bytes.fromhex(SERIAL)[::-1]
    if KIND == "rom":
        return b"\0" + number * 4
    return b"\0RPi4" + bytes.fromhex("c03111d0") + HARDWARE[2:] + number


def option(code, value):
    return bytes([code, len(value)]) + value


def message(kind, *more):
    fixed = b"\x01\x01\x06\0" + XID + bytes(20) + HARDWARE + bytes(202)
    return fixed + b"\x63\x82\x53\x63" + option(53, bytes([kind])) + b"".join(more) + b"\xff"


def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def frame(payload):
    udp = struct.pack("!4H", 68, 67, 8 + len(payload), 0) + payload
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 128, 17, 0, bytes(4), b"\xff" * 4)
    head = head[:10] + struct.pack("!H", checksum(head)) + head[12:]
    return b"\xff" * 6 + HARDWARE + b"\x08\x00" + head + udp


def options(payload):
    found, at = {}, 240
    while payload[at] != 255:
        code, size = payload[at], payload[at + 1]
        assert code != 0 and code not in found, f"option {code} is padding or comes twice"
        found[code] = payload[at + 2 : at + 2 + size]
        at += 2 + size
    return found


def exchange(wire, payload, kind):
    wire.send(frame(payload))
    while True:
        data = wire.recv(2000)
        ours = data[:6] == HARDWARE and data[12:14] == b"\x08\x00" and data[23] == 17 and data[36:38] == b"\0\x44"
        if ours and data[46:50] == XID:
            answer = data[42:]
            assert options(answer)[53] == bytes([kind]), f"an answer of another kind: {options(answer)}"
            return answer


def address(text):
    return socket.inet_aton(text)


def judge(answer):
    got = options(answer)
    assert len(answer) >= 300
    assert answer[20:24] == address(SERVER) and not any(answer[44:236]), "siaddr, sname, file"
    assert got[54] == address(SERVER) and got[60] == b"PXEClient" and got[66] == SERVER.encode(), got
    assert got[43] == MENU and got[97] == uuid() and 67 not in got, got
    return socket.inet_ntoa(answer[16:20])


def lease():
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
    wire.bind((INTERFACE, 0))
    wire.settimeout(20)
    who = [option(93, b"\0\0"), option(94, b"\x01\x02\x01"), option(97, uuid())]
    discover = message(1, option(55, WANTED), *who, option(60, CLASS))
    assert len(discover) == 322, "as long as in captures"
    offer = exchange(wire, discover, 2)
    ours = judge(offer)
    if KIND == "eeprom":
        request = message(3, option(54, address(SERVER)), option(50, address(ours)), option(55, WANTED), *who)
        assert judge(exchange(wire, request, 5)) == ours
    subprocess.run(["ip", "address", "add", f"{ours}/24", "dev", INTERFACE], check=True)
    return ours


class Tftp:
    """Fetches one file after the other, each from a port of its own, as the ROM does."""

    def __init__(self, ours):
        self.ours, self.port = ours, 49152

    def fetch(self, path, **asked):
        wire = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        wire.settimeout(20)
        wire.bind((self.ours, self.port))
        self.port += 1
        words = [path, "octet", *(str(word) for pair in asked.items() for word in pair)]
        wire.sendto(b"\0\x01" + b"".join(word.encode() + b"\0" for word in words), (SERVER, 69))
        content, block, size = bytearray(), 1, 512
        while True:
            packet, peer = wire.recvfrom(2000)
            assert peer[0] == SERVER
            kind, number = struct.unpack("!HH", packet[:4])
            if kind == 5:
                assert number == 1, "not found, and nothing else"
                return None
            if kind == 6:
                agreed = packet[2:].split(b"\0")
                agreed = dict(zip(agreed[::2], agreed[1::2]))
                assert set(agreed) <= {word.encode() for word in asked}, "nothing that was not asked for"
                size = int(agreed.get(b"blksize", 512))
                wire.sendto(b"\0\x04\0\0", peer)
                continue
            assert (kind, number) == (3, block & 0xFFFF)
            content += packet[4:]
            wire.sendto(b"\0\x04" + packet[2:4], peer)
            block += 1
            if len(packet) < size + 4:
                return content


def boot(ours):
    tftp = Tftp(ours)
    asked = {"tsize": 0, "blksize": 1024}
    if KIND == "rom":
        # The ROM itself knows no option; what it fetches goes on with them.
        assert tftp.fetch("bootcode.bin") == Path(DIRECTORY, "bootcode.bin").read_bytes()
        assert tftp.fetch("bootsig.bin") is None
        names = ["start.elf", "autoboot.txt", "config.txt", "recovery.elf", "start.elf", "fixup.dat"]
    else:
        names = ["config.txt", "pieeprom.sig", "recover4.elf", "recovery.elf", "start4.elf", "fixup4.dat"]
    names += ["cmdline.txt", "bcm2711-rpi-4-b.dtb", "kernel8.img", "armstub8.bin"]
    # A directory named by the serial number, or none for all.
    first = names[0]
    prefix = f"{SERIAL}/" if tftp.fetch(f"{SERIAL}/{first}", **asked) is not None else ""
    for name in names:
        original = Path(DIRECTORY, prefix + name)
        expected = original.read_bytes() if original.exists() else None
        assert tftp.fetch(prefix + name, **asked) == expected, name
    print(prefix or "common", ours)


boot(lease())
