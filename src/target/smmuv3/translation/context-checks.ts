import type { ArmTableConfig } from '../../../pagetable/arm.ts';
import { type Field, get, getWide, isSet } from '../../fields.ts';
import { type Features, sizeOf } from '../capabilities.ts';
import { CD } from '../spec/cd.ts';
import { STE } from '../spec/ste.ts';
import { GRANULES, greatestSize, hasGranule, isWide, rootOf, takesWideInput } from './stage-2.ts';
import { endiannessIsThere, type StreamEntry, WORLD_EL2 } from './stream-entry.ts';

/** A context descriptor, and the entry that it was found by: some of its fields are about that one. */
export interface CheckedContext {
  readonly words: Int32Array;
  readonly entry: StreamEntry;
  readonly features: Features;
}

/** Granules by CD.TG1; 0 is reserved. */
const GRANULES_1: readonly (12 | 14 | 16 | undefined)[] = [undefined, 14, 12, 16];

const on = ({ words }: CheckedContext, field: Field) => isSet(words, field);

/** Whether a table is walked: EPD0 and EPD1 do not count in EL2, which has no second table (5.4, EPD0). */
export function hasTable(cd: CheckedContext, upper: boolean): boolean {
  if (cd.entry.world === WORLD_EL2) return !upper;
  return !on(cd, upper ? CD.EPD1 : CD.EPD0);
}

function granuleOf({ words }: CheckedContext, upper: boolean): 12 | 14 | 16 | undefined {
  return upper ? GRANULES_1[get(words, CD.TG1)] : GRANULES[get(words, CD.TG0)];
}

function sizeIsLegal(cd: CheckedContext, upper: boolean): boolean {
  const granule = granuleOf(cd, upper) ?? 12;
  const size = get(cd.words, upper ? CD.T1SZ : CD.T0SZ);
  const least = cd.features.VAX > 0 && takesWideInput(cd.features, granule, on(cd, CD.DS)) ? 12 : 16;
  return size >= least && size <= greatestSize(cd.features, granule);
}

/** Effective IPS, in bits. */
function outputSize({ words, features }: CheckedContext): number {
  return Math.min(sizeOf(get(words, CD.IPS)), sizeOf(features.OAS));
}

function rootIsLegal(cd: CheckedContext, upper: boolean): boolean {
  const root = getWide(cd.words, upper ? CD.TTB1 : CD.TTB0) * 16;
  const most = isWide(cd.features, granuleOf(cd, upper) ?? 12, on(cd, CD.DS)) ? 52 : 48;
  return root < 2 ** Math.min(outputSize(cd), most);
}

const anyTable = (cd: CheckedContext) => hasTable(cd, false) || hasTable(cd, true);
const each = (breaks: (cd: CheckedContext, upper: boolean) => boolean, upper: boolean) => (cd: CheckedContext) =>
  hasTable(cd, upper) && breaks(cd, upper);
const noGranule = (cd: CheckedContext, upper: boolean) => !hasGranule(cd.features, granuleOf(cd, upper));
const badSize = (cd: CheckedContext, upper: boolean) => !sizeIsLegal(cd, upper);
const badRoot = (cd: CheckedContext, upper: boolean) => !rootIsLegal(cd, upper);

/** What makes a descriptor ILLEGAL (C_BAD_CD), by field in the order of 5.4, faults as in 5.5; fields that are IGNORED are not looked at. */
export const CD_RULES: readonly { readonly name: string; readonly breaks: (cd: CheckedContext) => boolean }[] = [
  { name: 'V', breaks: (cd) => !on(cd, CD.V) },
  { name: 'TG0', breaks: each(noGranule, false) },
  { name: 'T0SZ', breaks: each(badSize, false) },
  { name: 'ENDI', breaks: (cd) => anyTable(cd) && !endiannessIsThere(cd.features, on(cd, CD.ENDI)) },
  { name: 'TG1', breaks: each(noGranule, true) },
  { name: 'T1SZ', breaks: each(badSize, true) },
  { name: 'AA64', breaks: (cd) => !on(cd, CD.AA64) },
  { name: 'HD', breaks: (cd) => cd.features.HTTU < 2 && on(cd, CD.HD) },
  { name: 'HA', breaks: (cd) => cd.features.HTTU === 0 && on(cd, CD.HA) },
  {
    name: 'S: STE.S1STALLD',
    breaks: (cd) => cd.features.STALL_MODEL === 0 && isSet(cd.entry.words, STE.S1STALLD) && on(cd, CD.S),
  },
  { name: 'S: stalls are not there', breaks: (cd) => cd.features.STALL_MODEL === 1 && on(cd, CD.S) },
  { name: 'S: stalls are forced', breaks: (cd) => cd.features.STALL_MODEL === 2 && !on(cd, CD.S) },
  { name: 'A: RAZ/WI is not there', breaks: (cd) => cd.features.TERM_MODEL === 1 && !on(cd, CD.A) },
  {
    name: 'ASID: 8 bits',
    breaks: (cd) => cd.entry.world !== WORLD_EL2 && cd.features.ASID16 === 0 && get(cd.words, CD.ASID) > 0xff,
  },
  { name: 'TTB0: beyond IPS, or 48 bits', breaks: each(badRoot, false) },
  { name: 'TTB1: beyond IPS, or 48 bits', breaks: each(badRoot, true) },
];

/** One of the tables of a descriptor that is legal. */
export function stage1Config(cd: CheckedContext, upper: boolean): ArmTableConfig {
  const { words, features, entry } = cd;
  const granuleLg2 = granuleOf(cd, upper) as 12 | 14 | 16;
  const wide = isWide(features, granuleLg2, on(cd, CD.DS));
  const output = outputSize(cd);
  const updates = features.HTTU > 0 && on(cd, CD.HA);
  return {
    stage: 1,
    granuleLg2,
    inputBits: 64 - get(words, upper ? CD.T1SZ : CD.T0SZ),
    outputBits: wide ? output : Math.min(output, 48),
    root: rootOf(getWide(words, upper ? CD.TTB1 : CD.TTB0), output),
    wide,
    upper,
    topByteIgnored: on(cd, upper ? CD.TBI1 : CD.TBI0),
    hierarchyDisabled: on(cd, upper ? CD.HAD1 : CD.HAD0),
    accessFlag: updates ? 'update' : on(cd, CD.AFFD) ? 'ignore' : 'fault',
    dirty: updates && features.HTTU > 1 && on(cd, CD.HD),
    onePrivilege: entry.world === WORLD_EL2,
    privileged: entry.world !== WORLD_EL2 && entry.wishes[0] !== 0,
  };
}
