import { expect, test } from 'vitest';
import { EchoNetwork } from '../../src/cli/boot/echo-network.ts';

const bytes = (hex: string) => Uint8Array.from(Buffer.from(hex.replace(/\s/g, ''), 'hex'));
const hex = (frame: Uint8Array | undefined) => Buffer.from(frame ?? []).toString('hex');

function ask(frame: Uint8Array): { readonly network: EchoNetwork; readonly answers: Uint8Array[] } {
  const network = new EchoNetwork();
  const answers: Uint8Array[] = [];
  network.connect((answer) => answers.push(answer));
  network.send(frame);
  return { network, answers };
}

const GUEST = '525400123456';
const HOST = '52550a000202';
const ARP = (target: string) => bytes(`ffffffffffff ${GUEST} 0806 0001 0800 06 04 0001 ${GUEST} 0a00020f 000000000000 ${target}`);

test('RFC 826: says where 10.0.2.2 is, and nothing of others', () => {
  expect(hex(ask(ARP('0a000202')).answers[0])).toBe(`${GUEST}${HOST}0806000108000604` + `0002${HOST}0a000202${GUEST}0a00020f`);
  expect(ask(ARP('0a000203')).answers).toEqual([]);
});

/** Ones' complement sum of 16-bit words (RFC 1071). */
function sumOf(data: Uint8Array): number {
  let sum = 0;
  for (let i = 0; i < data.length; i += 2) sum += (data[i]! << 8) | (data[i + 1] ?? 0);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >> 16);
  return sum;
}

test.each([0, 1, 0xf7ff, 0xf800, 0xffff])('RFC 792: an echo with identifier %i comes back, its checksums right', (identifier) => {
  const icmp = bytes(`0800 0000 ${identifier.toString(16).padStart(4, '0')} 0001 68656c6c6f21`);
  new DataView(icmp.buffer).setUint16(2, ~sumOf(icmp) & 0xffff);
  const ip = bytes(`4500 0022 0000 4000 40 01 0000 0a00020f 0a000202`);
  new DataView(ip.buffer).setUint16(10, ~sumOf(ip) & 0xffff);
  const { network, answers } = ask(bytes(`${HOST}${GUEST}0800${hex(ip)}${hex(icmp)}`));
  const [reply] = answers;
  expect(hex(reply?.subarray(0, 14))).toBe(`${GUEST}${HOST}0800`);
  expect(hex(reply?.subarray(26, 34))).toBe('0a0002020a00020f');
  expect(reply?.[34]).toBe(0);
  expect([sumOf(reply!.subarray(14, 34)), sumOf(reply!.subarray(34))]).toEqual([0xffff, 0xffff]);
  expect(hex(reply?.subarray(38))).toBe(hex(icmp.subarray(4)));
  expect(network.echoes).toBe(1);
});

test.each(['', '00'.repeat(41), `${HOST}${GUEST}86dd${'00'.repeat(60)}`, `${HOST}${GUEST}0800${'00'.repeat(60)}`])(
  'what is no question has no answer',
  (frame) => {
    expect(ask(bytes(frame)).answers).toEqual([]);
  },
);
