import { EXECUTE, PRIVILEGED, READ, WRITE } from '../../../memory/access.ts';
import { type Field, get, getWide, isSet } from '../../fields.ts';
import { type Features, sizeOf } from '../capabilities.ts';
import { CONFIG, CONFIG_PASSES, CONFIG_STAGE_1, CONFIG_STAGE_2, EATS, OVERRIDE, S1FMT, STE, STRW } from '../spec/ste.ts';
import { granuleOf, greatestSize, hasGranule, isWide, outputSize, startFits, takesWideInput } from './stage-2.ts';

/** What STE rules are asked about. */
interface Checked {
  readonly words: Int32Array;
  readonly features: Features;
  readonly s1: boolean;
  readonly s2: boolean;
}

const on = ({ words }: Checked, field: Field) => isSet(words, field);
const value = ({ words }: Checked, field: Field) => get(words, field);

/** What makes a valid entry ILLEGAL (C_BAD_STE), by field in the order of 5.2; fields that are IGNORED are not looked at. */
export const STE_RULES: readonly { readonly name: string; readonly breaks: (ste: Checked) => boolean }[] = [
  { name: 'V', breaks: (ste) => !on(ste, STE.V) },
  { name: 'Config: stage 1 is not there', breaks: ({ s1, features }) => s1 && features.S1P === 0 },
  { name: 'Config: stage 2 is not there', breaks: ({ s2, features }) => s2 && features.S2P === 0 },
  {
    name: 'S1Fmt: two levels are not there',
    // 3 behaves as 0 (5.2.2).
    breaks: (ste) =>
      hasSubstreams(ste) && ste.features.CD2L === 0 && [S1FMT.leaves4K, S1FMT.leaves64K].some((format) => format === value(ste, STE.S1FMT)),
  },
  {
    name: 'S1ContextPtr: beyond OAS (3.4.3)',
    breaks: (ste) => ste.s1 && !ste.s2 && getWide(ste.words, STE.S1CONTEXT_PTR) * 64 >= 2 ** sizeOf(ste.features.OAS),
  },
  { name: 'S1CDMax', breaks: (ste) => hasSubstreams(ste) && value(ste, STE.S1CDMAX) > ste.features.SSIDSIZE },
  { name: 'S1STALLD', breaks: (ste) => ste.s1 && ste.features.STALL_MODEL !== 0 && on(ste, STE.S1STALLD) },
  {
    name: 'EATS 1: stage 2 stalls',
    breaks: (ste) => hasAts(ste) && ste.s2 && value(ste, STE.EATS) === EATS.full && on(ste, STE.S2S),
  },
  {
    name: 'EATS 2: without both stages, stalling, or NS1ATS',
    breaks: (ste) =>
      hasAts(ste) && value(ste, STE.EATS) === EATS.split && (!(ste.s1 && ste.s2) || on(ste, STE.S2S) || ste.features.NS1ATS === 1),
  },
  { name: 'STRW', breaks: (ste) => ste.features.Hyp === 1 && ste.s1 && !ste.s2 && (value(ste, STE.STRW) & 1) !== 0 },
  {
    name: 'S2VMID: 8 bits',
    breaks: (ste) => hasVmid(ste) && ste.features.VMID16 === 0 && value(ste, STE.S2VMID) > 0xff,
  },
  { name: 'S2TG', breaks: (ste) => ste.s2 && !hasGranule(ste.features, granuleOf(ste.words)) },
  { name: 'S2T0SZ', breaks: (ste) => ste.s2 && !sizeIsLegal(ste) },
  { name: 'S2SL0', breaks: (ste) => ste.s2 && !startFits(ste.words, ste.features) },
  { name: 'S2AA64', breaks: (ste) => ste.s2 && !on(ste, STE.S2AA64) },
  { name: 'S2ENDI', breaks: (ste) => ste.s2 && !endiannessIsThere(ste.features, on(ste, STE.S2ENDI)) },
  { name: 'S2HA', breaks: (ste) => ste.s2 && ste.features.HTTU === 0 && on(ste, STE.S2HA) },
  { name: 'S2HD', breaks: (ste) => ste.s2 && ste.features.HTTU < 2 && on(ste, STE.S2HD) },
  { name: 'S2S: stalls are not there', breaks: (ste) => ste.s2 && ste.features.STALL_MODEL === 1 && on(ste, STE.S2S) },
  { name: 'S2S: stalls are forced', breaks: (ste) => ste.s2 && ste.features.STALL_MODEL === 2 && !on(ste, STE.S2S) },
  { name: 'S2TTB: beyond S2PS, or 48 bits', breaks: (ste) => ste.s2 && !rootIsLegal(ste) },
];

function hasSubstreams({ words, s1, features }: Checked): boolean {
  return s1 && features.SSIDSIZE > 0 && isSet(words, STE.S1CDMAX);
}

/** EATS is not IGNORED. */
function hasAts({ s1, s2, features }: Checked): boolean {
  return features.ATS === 1 && (s1 || s2);
}

/** S2VMID is not IGNORED: NS-EL1, and a stage that translates. */
function hasVmid(ste: Checked): boolean {
  return ste.features.S2P === 1 && (ste.s2 || (ste.s1 && !isHypervisor(ste)));
}

function isHypervisor({ words, s2, features }: Checked): boolean {
  return features.Hyp === 1 && !s2 && get(words, STE.STRW) === STRW.el2;
}

function sizeIsLegal({ words, features }: Checked): boolean {
  const granule = granuleOf(words) ?? 12;
  const size = get(words, STE.S2T0SZ);
  const least = Math.max(takesWideInput(features, granule, isSet(words, STE.S2DS)) ? 12 : 16, 64 - sizeOf(features.OAS));
  return size >= least && size <= greatestSize(features, granule);
}

function rootIsLegal({ words, features }: Checked): boolean {
  const root = getWide(words, STE.S2TTB) * 16;
  const most = isWide(features, granuleOf(words) ?? 12, isSet(words, STE.S2DS)) ? 52 : 48;
  return root < 2 ** Math.min(outputSize(words, features), most);
}

/** IDR0.TTENDIAN. */
export function endiannessIsThere(features: Features, big: boolean): boolean {
  return features.TTENDIAN === 0 || features.TTENDIAN === (big ? 3 : 2);
}

/** Where a stream's translations are cached: a tag of the TLB, 3.17. Those of NS-EL1 are VMIDs; these share no place with the lowest of them. */
export const WORLD_EL2 = 0x1_03fe;
export const WORLD_EL2_E2H = 0x1_03ff;

/** A stream table entry as it was read, and what follows of it. */
export class StreamEntry {
  readonly stream: number;
  readonly words: Int32Array;
  /** The rule that it breaks; null: it is legal. */
  readonly illegal: string | null;
  /** STE.Config: whether requests get through, and by which stages. */
  readonly passes: boolean;
  readonly s1: boolean;
  readonly s2: boolean;
  /** VMID, WORLD_EL2 or WORLD_EL2_E2H. */
  readonly world: number;
  /** lg2 of the context descriptors, where there are substreams; 0: one. */
  readonly substreamBits: number;
  /** Wishes of an access by what it asks for (src/memory/access.ts): PRIVCFG and INSTCFG are in them. */
  readonly wishes: Uint8Array;

  constructor(stream: number, words: Int32Array, features: Features, e2h: boolean) {
    this.stream = stream;
    this.words = words;
    const config = get(words, STE.CONFIG);
    this.passes = (config & CONFIG_PASSES) !== 0;
    this.s1 = this.passes && (config & CONFIG_STAGE_1) !== 0;
    this.s2 = this.passes && (config & CONFIG_STAGE_2) !== 0;
    const checked = { words, features, s1: this.s1, s2: this.s2 };
    this.illegal = STE_RULES.find(({ breaks }) => breaks(checked))?.name ?? null;
    this.world = isHypervisor(checked) ? (e2h ? WORLD_EL2_E2H : WORLD_EL2) : features.S2P === 1 ? get(words, STE.S2VMID) : 0;
    this.substreamBits = hasSubstreams(checked) ? get(words, STE.S1CDMAX) : 0;
    this.wishes = wishesOf(
      features.ATTR_PERMS_OVR === 1 ? get(words, STE.PRIVCFG) : 0,
      features.ATTR_PERMS_OVR === 1 ? get(words, STE.INSTCFG) : 0,
    );
  }

  get config(): number {
    return get(this.words, STE.CONFIG);
  }

  get bypasses(): boolean {
    return this.config === CONFIG.bypass;
  }

  /** EATS as it counts (5.2): split-stage needs CR0.ATSCHK, and the device permission table is not there. */
  eats(checks: boolean): number {
    if (!this.s1 && !this.s2) return EATS.off;
    const eats = get(this.words, STE.EATS);
    return eats === EATS.full || (eats === EATS.split && checks) ? eats : EATS.off;
  }
}

/** 13.1.2: INSTCFG is of reads alone; what writes is data. */
function wishesOf(privcfg: number, instcfg: number): Uint8Array {
  return Uint8Array.from({ length: 16 }, (_, access) => {
    let wish = access & 7;
    if ((access & WRITE) === 0 && (access & (READ | EXECUTE)) !== 0) {
      if (instcfg === OVERRIDE.on) wish = EXECUTE;
      else if (instcfg === OVERRIDE.off) wish = READ;
    }
    const privileged = privcfg === OVERRIDE.on || (privcfg !== OVERRIDE.off && (access & PRIVILEGED) !== 0);
    return wish | (privileged ? PRIVILEGED : 0);
  });
}
