import { expect, test } from 'vitest';
import { READ, READ_WRITE } from '../../../src/memory/access.ts';
import { targetFault } from '../../../src/target/fault-codes.ts';
import { EVENT } from '../../../src/target/smmuv3/index.ts';
import { CERROR, OPCODE } from '../../../src/target/smmuv3/spec/commands.ts';
import { REG } from '../../../src/target/smmuv3/spec/registers.ts';
import { CONFIG } from '../../../src/target/smmuv3/spec/ste.ts';
import { CONTEXTS, type Command, contextOf, Guest, sync, tlbiRange, tlbiVa } from './guest.ts';

/* What may be said and makes no difference to an emulated SMMU: prefetches (4.2), and what a guest knows of the size of a leaf (4.4.1). */

const STREAM = 8;
const ASID = 7;
const IOVA = 0x5000n;

function mapped() {
  const guest = new Guest().start();
  const table = guest.table();
  table.table.map(5, 0x80, 1, READ_WRITE);
  guest.setContext(0, contextOf(ASID, table));
  guest.setStream(STREAM, { CONFIG: CONFIG.stage1, S1CONTEXT_PTR: CONTEXTS / 64 });
  return { guest, table: table.table };
}

const prefetch = (code: number, stream: number, bits = 0n): Command => [BigInt(code) | bits | (BigInt(stream) << 32n), IOVA];

test.each([
  ['PREFETCH_CONFIG', OPCODE.PREFETCH_CONFIG],
  ['PREFETCH_ADDR', OPCODE.PREFETCH_ADDR],
])('%s: consumed; of a stream that is wrong no event, of what it names nothing is remembered; Secure ones are illegal', (_, code) => {
  const { guest } = mapped();
  guest.command(prefetch(code, STREAM), prefetch(code, 200), prefetch(code, 0x7fff_ffff), sync());
  expect([guest.error, guest.read(REG.CMDQ_CONS), guest.numbers()]).toEqual([0, 4, []]);
  // An entry that becomes another one before anybody used it.
  guest.setStream(STREAM, { CONFIG: CONFIG.bypass });
  expect(guest.access(STREAM, IOVA, READ)).toBe(IOVA);
  guest.command(prefetch(code, STREAM, 1n << 10n));
  expect(guest.error).toBe(CERROR.ILL);
});

test.each<[string, Command]>([
  ['Leaf', tlbiVa(ASID, 5)],
  ['a page, without Leaf', [tlbiVa(ASID, 5)[0], 5n << 12n]],
  ['a range, TTL of its leaf', tlbiRange(ASID, 5, { num: 0, scale: 0, ttl: 3 })],
  ['a range, any level', tlbiRange(ASID, 4, { num: 1, scale: 0 })],
  ['a range in granules that the table has not', tlbiRange(ASID, 0, { num: 0, scale: 0, tg: 3, ttl: 3 })],
])('TLBI_NH_VA, %s: the page is forgotten', (_, command) => {
  const { guest, table } = mapped();
  expect(guest.access(STREAM, IOVA, READ)).toBe(0x8_0000n);
  table.unmap(5, 1);
  expect(guest.access(STREAM, IOVA, READ)).toBe(0x8_0000n);
  guest.command(command, sync());
  expect(guest.error).toBe(0);
  expect(guest.access(STREAM, IOVA, READ)).toBe(BigInt(targetFault('smmuv3', EVENT.F_TRANSLATION)));
});

test('AIDR says SMMUv3.2, IIDR nothing (6.3.7, 6.3.8); nobody writes them', () => {
  const { guest } = mapped();
  for (const register of [REG.IIDR, REG.AIDR]) guest.write(register, -1);
  expect([guest.read(REG.IIDR), guest.read(REG.AIDR)]).toEqual([0, 2]);
});
