# held.sh FOLDER NAME: tells that it began, goes on until FOLDER/NAME.go is there, and tells that it is done.
# Ends by itself after a quarter of an hour, should nobody be left to say that it may.
mkdir -p "$1"
echo "${EMR_STEP_ID:-none}" >> "$1/$2.began"
for _ in $(seq 1800); do
  if [ -e "$1/$2.go" ]; then
    echo "${EMR_STEP_ID:-none}" >> "$1/$2.done"
    exit 0
  fi
  sleep 0.5
done
exit 3
