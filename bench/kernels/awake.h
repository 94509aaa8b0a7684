/* Keeps the guest's only processor from idling while the machine's files are waited for (see awake.c). */
void stay_awake(const char *tracing, const char *meter);
