/** Members of kernel sets; resolves when the kernel has acknowledged. Time-outs in seconds (0: none). */
export interface SetWriter {
  add(set: string, address: string, timeoutSeconds: number): Promise<void>;
  remove(set: string, address: string): Promise<void>;
}
