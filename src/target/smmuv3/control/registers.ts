import { type Field, get, getWide, isSet, put } from '../../fields.ts';
import { architectureOf, type Features, registerOf, sizeOf } from '../capabilities.ts';
import {
  CMDQ_CONS,
  CR0,
  GATOS_ADDR,
  GATOS_SID,
  GBPA,
  GERROR,
  IRQ_CTRL,
  OVERFLOW_FLAG,
  PAGE_0_END,
  PAGE_1,
  QUEUE_BASE,
  QUEUE_INDEX,
  REG,
  REGISTER_BYTES,
  REGISTERS_END,
  VATOS_BYTES,
  VATOS_PAGE,
} from '../spec/registers.ts';

/** Which bit of which register being 1 makes another read-only ("Guarded by", 6.3). */
interface Guard {
  readonly register: number;
  readonly field: Field;
}

const CR0_WORD = REG.CR0 >> 2;
const CR2_WORD = REG.CR2 >> 2;
const ALL = 0xffff_ffff;
const INDEX = QUEUE_INDEX.INDEX.mask;
const FLAGGED_INDEX = INDEX | (OVERFLOW_FLAG.mask << OVERFLOW_FLAG.shift);
const bitsOf = (...fields: readonly Field[]) => fields.reduce((mask, field) => mask | (field.mask << field.shift), 0);
/** 6.3.11: how queues are accessed, and how tables are. */
const CR1_QUEUES = 0x3f;
const CR1_TABLES = 0xfc0;
/** All but Update, which reads 0: the update is over at once. */
const GBPA_FIELDS = bitsOf(...Object.values(GBPA)) & ~bitsOf(GBPA.UPDATE);

/** Indices that the SMMU moves, and the registers that say how long their queues are. */
const INDICES: ReadonlyMap<number, readonly [number, 'CMDQS' | 'EVENTQS' | 'PRIQS']> = new Map([
  [REG.CMDQ_CONS, [REG.CMDQ_BASE, 'CMDQS']],
  [REG.EVENTQ_PROD, [REG.EVENTQ_BASE, 'EVENTQS']],
  [REG.PRIQ_PROD, [REG.PRIQ_BASE, 'PRIQS']],
]);

/** 6.3.20: errors of what is not there are RES0. */
function errorsOf({ MSI, PRI }: Features): number {
  const { MSI_CMDQ_ABT_ERR, MSI_EVENTQ_ABT_ERR, MSI_GERROR_ABT_ERR, MSI_PRIQ_ABT_ERR } = GERROR;
  return (
    bitsOf(GERROR.CMDQ_ERR, GERROR.EVENTQ_ABT_ERR, GERROR.SFM_ERR) |
    (MSI ? bitsOf(MSI_CMDQ_ABT_ERR, MSI_EVENTQ_ABT_ERR, MSI_GERROR_ABT_ERR) : 0) |
    (PRI ? bitsOf(GERROR.PRIQ_ABT_ERR) : 0) |
    (MSI && PRI ? bitsOf(MSI_PRIQ_ABT_ERR) : 0)
  );
}

/** The registers: what they hold, what of them a guest can write and when, and the fields that others ask for. */
export class Registers {
  readonly words = new Int32Array(REGISTERS_END / 4);
  readonly features: Features;
  readonly #writable = new Map<number, { readonly mask: number; readonly guard?: Guard }>();
  /** Bits that are not a guest's to write at any time: set by the SMMU, or by rules of their own. */
  readonly #own: ReadonlyMap<number, number>;

  constructor(features: Features) {
    this.features = features;
    const allow = (offset: number, mask: number, guard?: Guard) =>
      this.#writable.set(offset, guard === undefined ? { mask } : { mask, guard });
    const by = (field: Field): Guard => ({ register: REG.CR0, field });
    // Address bits above OAS are RES0.
    const high = sizeOf(features.OAS) === 32 ? 0 : 2 ** (sizeOf(features.OAS) - 32) - 1;
    const HINT = 1 << 30;
    const { ATS, PRI, VMW, Hyp, ATSRECERR, MSI, ATOS, VATOS, VMID16, ST_LEVEL, SIDSIZE, SSIDSIZE } = features;
    allow(
      REG.CR0,
      bitsOf(CR0.SMMUEN, CR0.EVENTQEN, CR0.CMDQEN) |
        (PRI ? bitsOf(CR0.PRIQEN) : 0) |
        (ATS ? bitsOf(CR0.ATSCHK) : 0) |
        (VMW ? bitsOf(CR0.VMW) : 0),
    );
    allow(REG.CR2, (Hyp ? 1 : 0) | 2 | (ATSRECERR ? 8 : 0), by(CR0.SMMUEN));
    allow(REG.IRQ_CTRL, bitsOf(IRQ_CTRL.GERROR, IRQ_CTRL.EVENTQ) | (PRI ? bitsOf(IRQ_CTRL.PRIQ) : 0));
    allow(REG.GERRORN, errorsOf(features));
    allow(REG.STRTAB_BASE, -64, by(CR0.SMMUEN));
    allow(REG.STRTAB_BASE + 4, high | HINT, by(CR0.SMMUEN));
    allow(REG.STRTAB_BASE_CFG, 0x3f | (ST_LEVEL ? 0x3_07c0 : 0), by(CR0.SMMUEN));
    const queue = (base: number, guard: Guard) => {
      allow(base, ALL, guard);
      allow(base + 4, high | HINT, guard);
    };
    queue(REG.CMDQ_BASE, by(CR0.CMDQEN));
    allow(REG.CMDQ_PROD, INDEX);
    allow(REG.CMDQ_CONS, INDEX, by(CR0.CMDQEN));
    queue(REG.EVENTQ_BASE, by(CR0.EVENTQEN));
    allow(REG.EVENTQ_PROD, FLAGGED_INDEX, by(CR0.EVENTQEN));
    allow(REG.EVENTQ_CONS, FLAGGED_INDEX);
    if (PRI) {
      queue(REG.PRIQ_BASE, by(CR0.PRIQEN));
      allow(REG.PRIQ_PROD, FLAGGED_INDEX, by(CR0.PRIQEN));
      allow(REG.PRIQ_CONS, FLAGGED_INDEX);
    }
    const interrupts = (cfg0: number, cfg1: number, field: Field, own = 0) => {
      if (MSI === 0) return;
      const guard = { register: REG.IRQ_CTRL, field };
      allow(cfg0, -4, guard);
      allow(cfg0 + 4, high, guard);
      allow(cfg1, ALL, guard);
      allow(cfg1 + 4, own | 0x3f, guard);
    };
    interrupts(REG.GERROR_IRQ_CFG0, REG.GERROR_IRQ_CFG1, IRQ_CTRL.GERROR);
    interrupts(REG.EVENTQ_IRQ_CFG0, REG.EVENTQ_IRQ_CFG1, IRQ_CTRL.EVENTQ);
    if (PRI) interrupts(REG.PRIQ_IRQ_CFG0, REG.PRIQ_IRQ_CFG1, IRQ_CTRL.PRIQ, 1 << 31);
    const operations = (sid: number, address: number) => {
      // What is beyond the sizes of identifiers is RES0 (6.3.38).
      allow(sid, 2 ** SIDSIZE - 1);
      allow(sid + 4, SSIDSIZE === 0 ? 0 : (2 ** SSIDSIZE - 1) | bitsOf(GATOS_SID.SSID_VALID));
      allow(address, -(1 << 12) | bitsOf(GATOS_ADDR.HTTUI, GATOS_ADDR.IND, GATOS_ADDR.RNW, GATOS_ADDR.PNU, GATOS_ADDR.TYPE));
      allow(address + 4, ALL);
    };
    if (ATOS) operations(REG.GATOS_SID, REG.GATOS_ADDR);
    if (VATOS) {
      operations(REG.VATOS_SID, REG.VATOS_ADDR);
      allow(REG.VATOS_SEL, VMID16 ? 0xffff : 0xff);
    }
    const results = [...(ATOS ? [REG.GATOS_PAR] : []), ...(VATOS ? [REG.VATOS_PAR] : [])];
    this.#own = new Map([
      [REG.CR1, CR1_TABLES | CR1_QUEUES],
      [REG.GBPA, GBPA_FIELDS],
      [REG.GERROR, errorsOf(features) & ~bitsOf(GERROR.SFM_ERR)],
      [REG.CMDQ_CONS, bitsOf(CMDQ_CONS.ERR)],
      ...results.flatMap((offset) => [[offset, ALL] as const, [offset + 4, ALL] as const]),
    ]);
    this.reset();
  }

  /** As saved words have it; what is not among them is 0. Bits that nothing could have set, and registers that the SMMU is known by, stay as after a reset. */
  restore(saved: Iterable<readonly [number, number]>): void {
    this.reset();
    const words = new Map(saved);
    for (let offset = 0; offset < 4 * this.words.length; offset += 4) {
      const value = words.get(offset) ?? 0;
      const mask = (this.#writable.get(offset)?.mask ?? 0) | (this.#own.get(offset) ?? 0);
      this.set32(offset, (this.get32(offset) & ~mask) | (value & mask));
    }
    this.#acknowledge();
  }

  /** Updates are over at once (6.3.10, 6.3.18). */
  #acknowledge(): void {
    this.set32(REG.CR0ACK, this.get32(REG.CR0));
    this.set32(REG.IRQ_CTRLACK, this.get32(REG.IRQ_CTRL));
  }

  reset(): void {
    this.words.fill(0);
    for (const register of ['IDR0', 'IDR1', 'IDR3', 'IDR5'] as const) this.set32(REG[register], registerOf(register, this.features));
    this.set32(REG.AIDR, architectureOf(this.features));
    // Attributes as they come, which is what no driver writes.
    put(this.view(REG.GBPA), GBPA.SHCFG, 1);
  }

  /** Bytes that its pages take. */
  get bytes(): number {
    return REGISTER_BYTES + (this.features.VATOS ? VATOS_BYTES : 0);
  }

  /** Where an access goes: the offset within page 0, or where a register of the VATOS page is kept; -1 where nothing is. */
  place(offset: number): number {
    if (offset < PAGE_1) return offset < PAGE_0_END ? offset : -1;
    if (offset >= REGISTER_BYTES) {
      const inPage = offset - REGISTER_BYTES;
      return inPage >= VATOS_PAGE.FIRST && inPage < VATOS_PAGE.END ? REG.VATOS_CTRL + inPage - VATOS_PAGE.FIRST : -1;
    }
    const inPage0 = offset - PAGE_1;
    return [REG.EVENTQ_PROD, REG.EVENTQ_CONS, REG.PRIQ_PROD, REG.PRIQ_CONS].includes(inPage0 as 0xa8) ? inPage0 : -1;
  }

  get32(offset: number): number {
    return this.words[offset >> 2];
  }

  /** The same as a guest reads it: an index has no bits above its wrap flag (6.3.28, 6.3.95). */
  read32(offset: number): number {
    const value = this.get32(offset);
    const queue = INDICES.get(offset);
    return queue === undefined ? value : value & (~INDEX | (2 ** (this.queueLg2(...queue) + 1) - 1));
  }

  /** lg2 of a queue's entries (6.3.26). */
  queueLg2(base: number, most: 'CMDQS' | 'EVENTQS' | 'PRIQS'): number {
    return Math.min(get(this.view(base), QUEUE_BASE.LOG2SIZE), this.features[most]);
  }

  set32(offset: number, value: number): void {
    this.words[offset >> 2] = value;
  }

  /** The register at an offset, as two words. */
  view(offset: number): Int32Array {
    return this.words.subarray(offset >> 2, (offset >> 2) + 2);
  }

  /** A guest's write of four bytes. False: nothing was written. */
  store32(offset: number, value: number): boolean {
    if (offset === REG.GBPA) return this.#storeGbpa(value);
    if (offset === REG.CR1) return this.#storeCr1(value);
    const rule = this.#writable.get(offset);
    if (rule === undefined) return false;
    if (rule.guard !== undefined && isSet(this.view(rule.guard.register), rule.guard.field)) return false;
    this.set32(offset, (this.get32(offset) & ~rule.mask) | (value & rule.mask));
    this.#acknowledge();
    return true;
  }

  /** 6.3.14.1: a write without Update is ignored; the update is over at once. */
  #storeGbpa(value: number): boolean {
    if ((value & (1 << 31)) === 0) return false;
    this.set32(REG.GBPA, value & GBPA_FIELDS);
    return true;
  }

  /** 6.3.11: attributes of queues and tables are guarded by what uses them. */
  #storeCr1(value: number): boolean {
    const cr0 = this.view(REG.CR0);
    const queues = isSet(cr0, CR0.CMDQEN) || isSet(cr0, CR0.EVENTQEN) || isSet(cr0, CR0.PRIQEN);
    const mask = (queues ? 0 : CR1_QUEUES) | (isSet(cr0, CR0.SMMUEN) ? 0 : CR1_TABLES);
    this.set32(REG.CR1, (this.get32(REG.CR1) & ~mask) | (value & mask));
    return true;
  }

  cr0({ shift, mask }: Field): number {
    return (this.words[CR0_WORD] >>> shift) & mask;
  }

  cr2({ shift, mask }: Field): boolean {
    return ((this.words[CR2_WORD] >>> shift) & mask) !== 0;
  }

  get isOn(): boolean {
    return (this.words[CR0_WORD] & 1) !== 0;
  }

  /** OAS, in bits. */
  get outputBits(): number {
    return sizeOf(this.features.OAS);
  }

  /** A field of 52 bits at most, as a number. */
  wide(offset: number, field: Parameters<typeof getWide>[1]): number {
    return getWide(this.view(offset), field);
  }
}
