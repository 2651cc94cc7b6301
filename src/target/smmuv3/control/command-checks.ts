import { get, isSet } from '../../fields.ts';
import type { Features } from '../capabilities.ts';
import { ATC_INV, ATC_SIZE_ALL, OP, OPCODE, PRI_RESP, SIGNAL, STREAM, SYNC, TLBI } from '../spec/commands.ts';

/** What makes a command ILLEGAL (CERROR_ILL); reserved fields are ignored, as 4.1.5 allows. */
interface Form {
  /** The SMMU has no such command (7.1). */
  readonly isMissing?: (features: Features) => boolean;
  readonly breaks?: (words: Int32Array, features: Features) => boolean;
}

const stage1 = ({ S1P }: Features) => S1P === 0;
const stage2 = ({ S2P }: Features) => S2P === 0;
const hypervisor = ({ Hyp }: Features) => Hyp === 0;
const isSecure = (words: Int32Array) => isSet(words, STREAM.SSEC);
/** Here because the compiler folds a module's own constants only. */
const { TG, NUM, SCALE, SCALE_NARROW, TTL } = TLBI;

/** 4.4.1.1: a granule with neither a range nor a level. */
function rangeIsIllegal(words: Int32Array, features: Features): boolean {
  const tg = get(words, TG);
  if (tg === 0 || isSet(words, NUM) || isSet(words, features.DS === 1 ? SCALE : SCALE_NARROW) || features.RIL === 0) return false;
  const ttl = get(words, TTL);
  // Level 1 of 16K tables has no leaves without 52-bit addresses: as level 0, which says nothing.
  return ttl === 0 || (tg === 2 && ttl === 1 && features.DS === 0);
}

const FORMS: ReadonlyMap<number, Form> = new Map<number, Form>([
  [OPCODE.PREFETCH_CONFIG, { breaks: isSecure }],
  [OPCODE.PREFETCH_ADDR, { breaks: isSecure }],
  [OPCODE.CFGI_STE, { breaks: isSecure }],
  [OPCODE.CFGI_STE_RANGE, { breaks: isSecure }],
  [OPCODE.CFGI_CD, { isMissing: stage1, breaks: isSecure }],
  [OPCODE.CFGI_CD_ALL, { isMissing: stage1, breaks: isSecure }],
  [OPCODE.TLBI_NH_ALL, { isMissing: stage1 }],
  [OPCODE.TLBI_NH_ASID, { isMissing: stage1 }],
  [OPCODE.TLBI_NH_VA, { isMissing: stage1, breaks: rangeIsIllegal }],
  [OPCODE.TLBI_NH_VAA, { isMissing: stage1, breaks: rangeIsIllegal }],
  [OPCODE.TLBI_EL2_ALL, { isMissing: hypervisor }],
  [OPCODE.TLBI_EL2_ASID, { isMissing: hypervisor }],
  [OPCODE.TLBI_EL2_VA, { isMissing: hypervisor, breaks: rangeIsIllegal }],
  [OPCODE.TLBI_EL2_VAA, { isMissing: hypervisor, breaks: rangeIsIllegal }],
  [OPCODE.TLBI_S12_VMALL, { isMissing: stage2 }],
  [OPCODE.TLBI_S2_IPA, { isMissing: stage2, breaks: rangeIsIllegal }],
  [OPCODE.TLBI_NSNH_ALL, {}],
  [
    OPCODE.ATC_INV,
    {
      isMissing: ({ ATS }) => ATS === 0,
      breaks: (words) => isSecure(words) || get(words, ATC_INV.SIZE) > ATC_SIZE_ALL,
    },
  ],
  [
    OPCODE.PRI_RESP,
    {
      isMissing: ({ PRI }) => PRI === 0,
      breaks: (words) => isSecure(words) || get(words, PRI_RESP.RESPONSE) === 3,
    },
  ],
  [OPCODE.RESUME, { isMissing: ({ STALL_MODEL }) => STALL_MODEL === 1, breaks: isSecure }],
  [OPCODE.STALL_TERM, { isMissing: ({ STALL_MODEL }) => STALL_MODEL === 1, breaks: isSecure }],
  [OPCODE.SYNC, { breaks: (words) => get(words, SYNC.CS) === SIGNAL.reserved }],
]);

/** By opcode, for the features of one SMMU: what the commands are checked by; what has none is no command. */
export class CommandChecks {
  readonly #breaks: readonly (Form['breaks'] | null)[];
  readonly #features: Features;

  constructor(features: Features) {
    this.#features = features;
    this.#breaks = Array.from({ length: 256 }, (_, opcode) => {
      const form = FORMS.get(opcode);
      return form === undefined || form.isMissing?.(features) ? null : form.breaks;
    });
  }

  /** CERROR_ILL. */
  isIllegal(words: Int32Array): boolean {
    const breaks = this.#breaks[get(words, OP)];
    if (breaks === undefined) return false;
    return breaks === null || breaks(words, this.#features);
  }
}
