import type { NetworkBackend } from '../../vmm/devices/index.ts';

/** Ethernet II: destination, source, type. */
const ETHERNET = { SOURCE: 6, TYPE: 12, IPV4: 0x0800, ARP: 0x0806 } as const;
/** ARP over Ethernet and IPv4 (RFC 826), from the frame's beginning: operation, then sender's and target's addresses. */
const ARP = { OPERATION: 20, SENDER: 22, SENDER_IP: 28, TARGET: 32, TARGET_IP: 38, BYTES: 42, REQUEST: 1, REPLY: 2 } as const;
/** IPv4 without options (RFC 791), and ICMP behind it (RFC 792). */
const IP = { PROTOCOL: 23, SOURCE: 26, DESTINATION: 30, ICMP: 1 } as const;
const ICMP = { TYPE: 34, CHECKSUM: 36, ECHO: 8, ECHO_REPLY: 0 } as const;

const MAC = Uint8Array.of(0x52, 0x55, 10, 0, 2, 2);
/** Who is there: 10.0.2.2. */
const ADDRESS = Uint8Array.of(10, 0, 2, 2);

/** A wire with one host at its other end, which says where it is and answers to ping. */
export class EchoNetwork implements NetworkBackend {
  #receive: (frame: Uint8Array) => void = () => {};
  /** Echo requests that were answered. */
  echoes = 0;

  connect(receive: (frame: Uint8Array) => void): void {
    this.#receive = receive;
  }

  send(frame: Uint8Array): void {
    if (frame.length < ARP.BYTES) return;
    const view = new DataView(frame.buffer, frame.byteOffset, frame.length);
    const type = view.getUint16(ETHERNET.TYPE);
    if (type === ETHERNET.ARP && view.getUint16(ARP.OPERATION) === ARP.REQUEST && isHere(frame, ARP.TARGET_IP)) this.#resolve(frame);
    const echo = frame[IP.PROTOCOL] === IP.ICMP && frame[ICMP.TYPE] === ICMP.ECHO && isHere(frame, IP.DESTINATION);
    if (type === ETHERNET.IPV4 && echo) this.#echo(frame);
  }

  #resolve(request: Uint8Array): void {
    const reply = answerTo(request);
    reply[ARP.OPERATION + 1] = ARP.REPLY;
    reply.copyWithin(ARP.TARGET, ARP.SENDER, ARP.TARGET);
    reply.set(MAC, ARP.SENDER);
    reply.set(ADDRESS, ARP.SENDER_IP);
    this.#receive(reply);
  }

  /** The request with its addresses exchanged; their sum, and so IP's checksum, stays. */
  #echo(request: Uint8Array): void {
    const reply = answerTo(request);
    reply.set(request.subarray(IP.DESTINATION, IP.DESTINATION + 4), IP.SOURCE);
    reply.set(request.subarray(IP.SOURCE, IP.SOURCE + 4), IP.DESTINATION);
    reply[ICMP.TYPE] = ICMP.ECHO_REPLY;
    const view = new DataView(reply.buffer);
    // The type was taken from what the checksum is the complement of (RFC 1624).
    const sum = view.getUint16(ICMP.CHECKSUM) + (ICMP.ECHO << 8);
    view.setUint16(ICMP.CHECKSUM, (sum & 0xffff) + (sum >> 16));
    this.echoes++;
    this.#receive(reply);
  }
}

function isHere(frame: Uint8Array, at: number): boolean {
  return ADDRESS.every((byte, i) => frame[at + i] === byte);
}

/** A frame of ours to whom this one is from, with the same content. */
function answerTo(request: Uint8Array): Uint8Array {
  const reply = Uint8Array.from(request);
  reply.set(request.subarray(ETHERNET.SOURCE, ETHERNET.TYPE), 0);
  reply.set(MAC, ETHERNET.SOURCE);
  return reply;
}
