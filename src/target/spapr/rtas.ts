import type { DmaWindow } from './dma-window.ts';
import type { HostBridge } from './host-bridge.ts';
import { CREATE, PE, QUERY, REMOVE, RESET, RTAS_HARDWARE_ERROR, RTAS_PARAMETER_ERROR, RTAS_SUCCESS, STATUS } from './spec/rtas.ts';

/** The RTAS calls for dynamic DMA windows, by the names that their tokens have in the device tree (LoPAR 7.3.27). */
export type DmaWindowCall =
  | 'ibm,query-pe-dma-window'
  | 'ibm,create-pe-dma-window'
  | 'ibm,remove-pe-dma-window'
  | 'ibm,reset-pe-dma-windows';

/** What the calls need of the IOMMU. */
export interface WindowKeeper {
  bridgeOf(buidHi: number, buidLo: number): HostBridge | undefined;
  bridgeOfLiobn(liobn: number): HostBridge | undefined;
  /** Puts other windows in the place of a bridge's windows. False: the host could not follow, and the old ones stand. */
  replaceWindows(bridge: HostBridge, windows: readonly DmaWindow[]): boolean;
}

type Call = (keeper: WindowKeeper, inputs: Uint32Array, outputs: Uint32Array) => number;

/** The bridge that PE names; undefined too when the call must not be made for it (R1 of 7.3.27: a bridge with "ibm,ddw-applicable"). */
function bridgeOf(keeper: WindowKeeper, inputs: Uint32Array): HostBridge | undefined {
  const bridge = keeper.bridgeOf(inputs[PE.BUID_HI], inputs[PE.BUID_LO]);
  return bridge?.options.ddw === undefined ? undefined : bridge;
}

/** 7.3.27.1. */
function query(keeper: WindowKeeper, inputs: Uint32Array, outputs: Uint32Array): number {
  const bridge = bridgeOf(keeper, inputs);
  if (bridge === undefined) return RTAS_PARAMETER_ERROR;
  const pageSizes = bridge.options.ddw?.pageSizeMask ?? 0;
  outputs[QUERY.WINDOWS] = bridge.windowsAvailable();
  if (outputs.length === QUERY.OUTPUTS[1]) {
    outputs[QUERY.WIDE_TCES_HI] = 0;
    outputs[QUERY.WIDE_TCES_LO] = bridge.largestBlock;
    outputs[QUERY.WIDE_PAGE_SIZES] = pageSizes;
    outputs[QUERY.WIDE_MIGRATION] = 0;
  } else {
    outputs[QUERY.TCES] = bridge.largestBlock;
    outputs[QUERY.PAGE_SIZES] = pageSizes;
    outputs[QUERY.MIGRATION] = 0;
  }
  return RTAS_SUCCESS;
}

/** 7.3.27.2. */
function create(keeper: WindowKeeper, inputs: Uint32Array, outputs: Uint32Array): number {
  const bridge = bridgeOf(keeper, inputs);
  const pageLg2 = inputs[CREATE.PAGE_LG2];
  const windowLg2 = inputs[CREATE.WINDOW_LG2];
  if (!bridge?.pageLg2s.includes(pageLg2)) return RTAS_PARAMETER_ERROR;
  if (windowLg2 < pageLg2 || 2 ** (windowLg2 - pageLg2) > bridge.largestBlock) return RTAS_PARAMETER_ERROR;
  const window = bridge.newWindow(pageLg2, windowLg2);
  if (window === null) return RTAS_PARAMETER_ERROR;
  if (!keeper.replaceWindows(bridge, [...bridge.windows, window])) return RTAS_HARDWARE_ERROR;
  outputs[CREATE.LIOBN] = window.liobn;
  outputs[CREATE.START_HI] = Number(window.start >> 32n);
  outputs[CREATE.START_LO] = Number(window.start & 0xffffffffn);
  return RTAS_SUCCESS;
}

/** 7.3.27.3. R1-3: whoever removes the last window, and it is not a default one, gets the default ones back. */
function remove(keeper: WindowKeeper, inputs: Uint32Array): number {
  const liobn = inputs[REMOVE.LIOBN];
  const bridge = keeper.bridgeOfLiobn(liobn);
  const window = bridge?.windows.find((candidate) => candidate.liobn === liobn);
  if (bridge?.options.ddw === undefined || window === undefined) return RTAS_PARAMETER_ERROR;
  const rest = bridge.windows.filter((candidate) => candidate !== window);
  const windows = rest.length === 0 && !window.isDefault ? bridge.defaultWindows() : rest;
  return keeper.replaceWindows(bridge, windows) ? RTAS_SUCCESS : RTAS_HARDWARE_ERROR;
}

/** 7.3.27.4.1: the windows, and what is in them, are as at boot. */
function reset(keeper: WindowKeeper, inputs: Uint32Array): number {
  const bridge = bridgeOf(keeper, inputs);
  if (bridge === undefined) return RTAS_PARAMETER_ERROR;
  return keeper.replaceWindows(bridge, bridge.defaultWindows()) ? RTAS_SUCCESS : RTAS_HARDWARE_ERROR;
}

const calls: Record<DmaWindowCall, { readonly inputs: number; readonly outputs: readonly number[]; readonly call: Call }> = {
  'ibm,query-pe-dma-window': { inputs: QUERY.INPUTS, outputs: QUERY.OUTPUTS, call: query },
  'ibm,create-pe-dma-window': { inputs: CREATE.INPUTS, outputs: CREATE.OUTPUTS, call: create },
  'ibm,remove-pe-dma-window': { inputs: REMOVE.INPUTS, outputs: REMOVE.OUTPUTS, call: remove },
  'ibm,reset-pe-dma-windows': { inputs: RESET.INPUTS, outputs: RESET.OUTPUTS, call: reset },
};

/** Does one call and returns its status, which stands in outputs[STATUS] too. @throws TypeError for a name that is none of them. */
export function callRtas(keeper: WindowKeeper, name: DmaWindowCall, inputs: Uint32Array, outputs: Uint32Array): number {
  if (!Object.hasOwn(calls, name)) throw new TypeError(`SpaprIommu: ${name} is not an RTAS call for DMA windows`);
  const { inputs: wanted, outputs: forms, call } = calls[name];
  const fits = inputs.length === wanted && forms.includes(outputs.length);
  const status = fits ? call(keeper, inputs, outputs) : RTAS_PARAMETER_ERROR;
  outputs[STATUS] = status;
  return status;
}
