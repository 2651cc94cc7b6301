import { expect, test } from 'vitest';
import { READ_WRITE } from '../../../src/memory/access.ts';
import { PAGE_LG2 } from '../../../src/memory/address.ts';
import { GuestMemory } from '../../../src/memory/guest-memory.ts';
import { TceTable } from '../../../src/pagetable/tce.ts';
import { REPEATED as OF_RAM } from '../../../src/target/spapr/guest-ram.ts';
import { REPEATED } from '../../../src/target/spapr/hypercalls.ts';
import { REPEATED as OF_TARGET } from '../../../src/target/spapr/spapr-iommu.ts';
import {
  H_GET_TCE,
  H_PUT_TCE,
  H_PUT_TCE_INDIRECT,
  H_STUFF_TCE,
  H_SUCCESS,
  PARAMETER,
  RESULT_TCE,
  TCES_PER_CALL,
} from '../../../src/target/spapr/spec/hcalls.ts';
import { CREATE, IO_PAGE_LG2S, PE, QUERY } from '../../../src/target/spapr/spec/rtas.ts';
import { TCE, TCE_BYTES, TCE_PERMISSION } from '../../../src/target/spapr/spec/tce.ts';
import { NO_PASID } from '../../../src/target/target.ts';

test('what hypercalls.ts repeats is as in spec/hcalls.ts, registers as halves', () => {
  const { LIOBN, IOBA, LIST, COUNT } = PARAMETER;
  expect(REPEATED).toEqual({
    GET_TCE: H_GET_TCE,
    PUT_TCE: H_PUT_TCE,
    STUFF_TCE: H_STUFF_TCE,
    PUT_TCE_INDIRECT: H_PUT_TCE_INDIRECT,
    SUCCESS: H_SUCCESS,
    LIOBN: 2 * LIOBN,
    IOBA: 2 * IOBA,
    TCE: 2 * PARAMETER.TCE,
    LIST: 2 * LIST,
    COUNT: 2 * COUNT,
    RESULT: 2 * RESULT_TCE,
  });
});

test('what guest-ram.ts and spapr-iommu.ts repeat is as in spec/tce.ts, target.ts and src/memory/address.ts', () => {
  expect(OF_RAM).toEqual({ PAGE_SHIFT: PAGE_LG2, PERMISSION: TCE_PERMISSION });
  expect(OF_TARGET).toEqual({ PERMISSION: TCE_PERMISSION, WITHOUT_PASID: NO_PASID });
});

test('CONTROL is READ and WRITE as the library has them, and what the tables of src/pagetable have', () => {
  expect(TCE.CONTROL.mask << TCE.CONTROL.shift).toBe(TCE_PERMISSION);
  expect(TCE_PERMISSION).toBe(READ_WRITE);
  const { fields } = new TceTable(GuestMemory.ofBytes(4096), { root: 0, levels: 1, indexBits: 9, pageLg2: 12 }).description;
  expect(fields).toEqual({
    read: [TCE.CONTROL.shift, TCE.CONTROL.shift],
    write: [TCE.CONTROL.shift + 1, TCE.CONTROL.shift + 1],
    realPageNumber: [TCE.RPN.low, TCE.RPN.low + TCE.RPN.width - 1],
  });
});

test('the fields of a TCE are all of its bits', () => {
  expect([TCE.SOFTWARE.shift, 32 - Math.clz32(TCE.SOFTWARE.mask << TCE.SOFTWARE.shift)]).toEqual([2, TCE.RPN.low]);
  expect(TCE.RPN.low + TCE.RPN.width).toBe(8 * TCE_BYTES);
});

test('a list of TCEs is a page', () => {
  expect(TCES_PER_CALL * TCE_BYTES).toBe(4096);
});

test('cells: those that name the PE come first, outputs have places of their own', () => {
  expect([PE.CONFIG_ADDRESS, PE.BUID_HI, PE.BUID_LO, CREATE.PAGE_LG2, CREATE.WINDOW_LG2]).toEqual([0, 1, 2, 3, CREATE.INPUTS - 1]);
  expect([QUERY.WINDOWS, QUERY.TCES, QUERY.PAGE_SIZES, QUERY.MIGRATION]).toEqual([1, 2, 3, QUERY.OUTPUTS[0] - 1]);
  expect([QUERY.WIDE_TCES_HI, QUERY.WIDE_TCES_LO, QUERY.WIDE_PAGE_SIZES, QUERY.WIDE_MIGRATION]).toEqual([2, 3, 4, QUERY.OUTPUTS[1] - 1]);
  expect(new Set(IO_PAGE_LG2S).size).toBe(9);
});
